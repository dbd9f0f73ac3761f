/* The guarded memory of a call: op_alloc() takes from it, and it goes bad with the call. */
#ifndef BERTH_CHECK_AROUND_H
#define BERTH_CHECK_AROUND_H

struct berth_call;
struct guard;
struct guard *around_guard(const struct berth_call *c);
void around_forget(const struct berth_call *c);

#endif
