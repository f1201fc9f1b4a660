#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

enum { MOST_THREADS = 64 };

typedef struct {
    void (*task)(void *data, size_t i);
    void *data;
    size_t count;
    atomic_size_t next;
} loop;

static void work(void *argument) {
    loop *shared = argument;
    for (size_t i; (i = atomic_fetch_add(&shared->next, 1)) < shared->count;) shared->task(shared->data, i);
}

static void *work_on_thread(void *argument) {
    work(argument);
    return NULL;
}

/* GNU's OpenMP: runs function(data) on each of so many threads and returns when all have. */
typedef void (*openmp_parallel)(void (*function)(void *data), void *data, unsigned num_threads, unsigned flags);

/* Looked up every time: the process may load its OpenMP after this library. */
static openmp_parallel openmp(void) {
    openmp_parallel found;
    *(void **)&found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    return found;
}

static void on_own_threads(loop *shared, int num_threads) {
    pthread_t helpers[MOST_THREADS];
    int started = 0;
    while (started < num_threads - 1 && started < MOST_THREADS) {
        if (pthread_create(&helpers[started], NULL, work_on_thread, shared) != 0) break;
        started++;
    }
    work(shared);
    for (int i = 0; i < started; i++) pthread_join(helpers[i], NULL);
}

void aps_on_threads(void *num_threads, void (*task)(void *data, size_t i), size_t count, void *data) {
    loop shared = {task, data, count, 0};
    const int wanted = *(const int *)num_threads;
    const int used = (size_t)wanted < count ? wanted : (int)count;
    const openmp_parallel parallel = used > 1 ? openmp() : NULL;
    if (used <= 1)
        work(&shared);
    else if (parallel != NULL)
        parallel(work, &shared, (unsigned)used, 0);
    else
        on_own_threads(&shared, used);
}
