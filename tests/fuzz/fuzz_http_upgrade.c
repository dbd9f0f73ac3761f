/* The head of a request to the streaming server, its path and its upgrade. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "stream/upgrade.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *p = berth_memdup(data, size ? size : 1); /* of its own: reads past it are seen */
	struct berth_http_head h;
	int len = berth_http_parse(p, size, &h);

	if (len > (int)size || (len > 0 && memcmp(p + len - 4, "\r\n\r\n", 4) != 0))
		abort();
	for (int kind = BERTH_STREAM_EXEC; len > 0 && kind <= BERTH_STREAM_FORWARD; kind++) {
		struct berth_upgrade up;
		struct berth_buf extra = {0};
		const char *why = NULL;
		enum berth_stream_kind named;
		struct berth_http_text token;
		int status = berth_upgrade(&h, (enum berth_stream_kind)kind, &up, &extra, &why);
		if ((status == 0) != (up.answer.len > 0) || (status != 0 && !why))
			abort();
		if (berth_stream_path(&h.target, &named, &token) == 0 &&
		        (token.n == 0 || token.p + token.n > p + len))
			abort();
		berth_buf_finish(&up.answer);
		berth_buf_finish(&extra);
	}
	free(p);
	return 0;
}
