/* What Python calls, by ctypes: plain numbers and addresses, and a number that tells how it ended. */
#include <stdlib.h>

#include "polyphase.h"
#include "pool.h"
#include "threads.h"

enum { DONE = 0, OUT_OF_MEMORY = 1, INVALID = 2 };

APS_EXPORT int aps_choose_on_threads(const aps_map *map, int criterion, int64_t *index, int num_threads) {
    if (aps_why_invalid(map) || criterion < 0 || criterion >= APS_NUM_CRITERIA) return INVALID;
    if (map->batch == 0) return DONE;
    void *scratch = malloc(aps_scratch_bytes(map));
    if (scratch == NULL) return OUT_OF_MEMORY;
    aps_choose(map, (enum aps_criterion)criterion, index, scratch, aps_on_threads, &num_threads);
    free(scratch);
    return DONE;
}

static int are_components(const aps_map *map, const int64_t *index) {
    for (int64_t n = 0; n < map->batch; n++)
        if (index[n] < 0 || index[n] >= map->stride * map->stride) return 0;
    return 1;
}

APS_EXPORT int aps_take_on_threads(const aps_map *map, const int64_t *index, float *taken, int num_threads) {
    if (aps_why_invalid(map) || !are_components(map, index)) return INVALID;
    aps_take(map, index, taken, aps_on_threads, &num_threads);
    return DONE;
}

APS_EXPORT int aps_put_on_threads(const aps_map *map, const float *taken, const int64_t *index, float *put,
                                  int num_threads) {
    if (aps_why_invalid(map) || !are_components(map, index)) return INVALID;
    aps_put(map, taken, index, put, aps_on_threads, &num_threads);
    return DONE;
}

APS_EXPORT int aps_pool_on_threads(const float *values, int64_t channels, int64_t height, int64_t width, float *pooled,
                                   uint8_t *kept, int num_threads) {
    if (height < 1 || width < 1) return INVALID;
    aps_pool(values, channels, height, width, pooled, kept, aps_on_threads, &num_threads);
    return DONE;
}

APS_EXPORT int aps_spread_on_threads(const float *gradient, const uint8_t *kept, int64_t channels, int64_t height,
                                     int64_t width, float *spread, int num_threads) {
    if (height < 1 || width < 1) return INVALID;
    aps_spread(gradient, kept, channels, height, width, spread, aps_on_threads, &num_threads);
    return DONE;
}

/* The digest of the sources that this library was built from, as the builder gave it. */
#define TEXT_OF(name) #name
#define AS_TEXT(name) TEXT_OF(name)
APS_EXPORT const char *aps_source_digest(void) { return AS_TEXT(APS_SOURCE_DIGEST); }
