#include "threads.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MOST_THREADS = 64 };

typedef struct {
    void (*task)(void *data, size_t i);
    void *data;
    size_t count;
    atomic_size_t next;
} loop;

static void *work(void *argument) {
    loop *shared = argument;
    for (size_t i; (i = atomic_fetch_add(&shared->next, 1)) < shared->count;) shared->task(shared->data, i);
    return NULL;
}

void aps_on_threads(void *num_threads, void (*task)(void *data, size_t i), size_t count, void *data) {
    loop shared = {task, data, count, 0};
    pthread_t helpers[MOST_THREADS];
    const int wanted = *(const int *)num_threads - 1;
    int started = 0;
    while (started < wanted && started < MOST_THREADS && (size_t)started + 1 < count) {
        if (pthread_create(&helpers[started], NULL, work, &shared) != 0) break;
        started++;
    }
    work(&shared);
    for (int i = 0; i < started; i++) pthread_join(helpers[i], NULL);
}
