/* AppArmor. [any] */
#ifndef BERTH_SECURITY_APPARMOR_H
#define BERTH_SECURITY_APPARMOR_H

#include <stdbool.h>

/* The kernel enforces AppArmor. */
bool berth_apparmor_enabled(void);
/* 1: a profile of that name is loaded; 0: none; negative errno: the kernel's list cannot be read.
 */
int berth_apparmor_loaded(const char *profile);

#endif
