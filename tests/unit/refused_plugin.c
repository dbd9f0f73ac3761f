/* A file that must not run: its constructor leaves a mark. ENTRY is the name of its entry. */
#include <berth/plugin.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void ran(void)
{
	const char *mark = getenv("BERTH_TEST_MARK");
	int fd = mark ? open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (fd >= 0)
		close(fd);
}

#ifdef NEEDS
BERTH_PLUGIN_NEEDS(NEEDS)
#endif

BERTH_EXPORT const struct berth_plugin *ENTRY(uint32_t host_minor);

const struct berth_plugin *ENTRY(uint32_t host_minor)
{
	static const struct berth_plugin plugin = {.size = sizeof(plugin),
	        .abi_minor = BERTH_ABI_MINOR + 1,
	        .name = "other",
	        .version = "1"};
	(void)host_minor;
	return &plugin;
}
