/* The last words of a process that ends by a fault: which plugin was at work on what. */
#ifndef BERTH_PLUGIN_CRASH_H
#define BERTH_PLUGIN_CRASH_H

/* [main, once] From now on SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT write one line to stderr
 * (the signal, the address, the plugin, op and object of the thread, or what thread it was) and
 * then do what they would have done before: dump core, or be reported by a sanitizer. Everything
 * in the handler is async-signal-safe. An overflow of a worker's stack cannot be told: only the
 * main thread has another one for its handlers. */
void berth_crash_init(void);

#endif
