/* A parallel loop for callers without a pool of threads of their own. */
#ifndef APS_THREADS_H
#define APS_THREADS_H

#include <stddef.h>

/* An aps_parallel_for whose runner is an int: the number of threads, the caller's own among them.
 *
 * Where the process has an OpenMP runtime of GNU's interface, as PyTorch brings one, the loop runs in its threads: they
 * are awake from the operator before, and threads of our own would have to share the cores with them while they spin.
 * Elsewhere threads are started for the loop and end with it; where none can be, the caller does all the work. */
void aps_on_threads(void *num_threads, void (*task)(void *data, size_t i), size_t count, void *data);

#endif
