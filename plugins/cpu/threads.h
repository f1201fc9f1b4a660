/* A parallel loop for callers without a pool of threads of their own. */
#ifndef APS_THREADS_H
#define APS_THREADS_H

#include <stddef.h>

/* An aps_parallel_for whose runner is an int: the number of threads, the caller's own among them. Threads are started for
 * the loop and end with it; where none can be started, the caller does all the work. */
void aps_on_threads(void *num_threads, void (*task)(void *data, size_t i), size_t count, void *data);

#endif
