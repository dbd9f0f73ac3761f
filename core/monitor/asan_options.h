/* For the helper programs: at their end they are confined or in other namespaces, where the leak
 * check of a sanitized build cannot trace. */
#ifndef BERTH_MONITOR_ASAN_OPTIONS_H
#define BERTH_MONITOR_ASAN_OPTIONS_H

#ifdef __SANITIZE_ADDRESS__
const char *__asan_default_options(void);
__attribute__((visibility("default"))) const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

#endif
