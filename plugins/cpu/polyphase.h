/* Adaptive polyphase sampling on the CPU, for maps of float32 in the order N, C, H, W.
 *
 * A map is blurred by one f x f filter per channel, continued circularly at its borders (f = 1: it is not blurred), and of
 * the result one polyphase component is kept: component k = dy + s*dx holds rows dy, dy+s, ... and columns dx, dx+s, ...
 * The blurred map is never written: every pass computes the rows it needs while they are in the cache. In training the
 * gradient of the component goes back to the map in one pass, too.
 *
 * Each value is computed by the same operations wherever it stands in the map and whatever runs beside it, so a shifted
 * map gives the shifted values bit for bit, in every batch and for every number of threads.
 */
#ifndef APS_POLYPHASE_H
#define APS_POLYPHASE_H

#include <stddef.h>
#include <stdint.h>

/* What the library offers to others; all else is hidden. */
#define APS_EXPORT __attribute__((visibility("default")))

enum { APS_LARGEST_FILTER = 7, APS_LARGEST_STRIDE = 8 };

/* In the order of aps_deploy.plugins.cpu.CRITERIA. */
enum aps_criterion { APS_L2, APS_L1, APS_L2_MIN, APS_L1_MIN, APS_NUM_CRITERIA };

/* What is read. `filter` holds C filters of f*f weights, row by row; it is not read where f is 1. */
typedef struct {
    const float *values;
    const float *filter;
    int64_t batch, channels, height, width;
    int64_t filter_size, stride;
} aps_map;

/* Runs task(data, i) for every i in 0..count-1, in any order and side by side; returns when all are done. */
typedef void (*aps_parallel_for)(void *runner, void (*task)(void *data, size_t i), size_t count, void *data);

/* Whether this processor has the instructions without which the standard operators are faster. */
APS_EXPORT int aps_is_fast(void);

/* NULL where the sizes can be computed, else why not: positive, sides that are multiples of the stride, no filter larger
 * than the map, none of the numbers above exceeded. */
const char *aps_why_invalid(const aps_map *map);

/* Bytes of scratch memory that aps_choose needs. */
size_t aps_scratch_bytes(const aps_map *map);

/* Writes the chosen component of each image to index (N). An image with a NaN or an infinity keeps component 0. */
void aps_choose(const aps_map *map, enum aps_criterion criterion, int64_t *index, void *scratch,
                aps_parallel_for parallel_for, void *runner);

/* Writes component index[n] of every blurred image to taken (N, C, H/s, W/s). Each index lies in 0..s*s-1. */
void aps_take(const aps_map *map, const int64_t *index, float *taken, aps_parallel_for parallel_for, void *runner);

/* The gradient of aps_take: writes, to `put` (N, C, H, W), the component `taken` (N, C, H/s, W/s) put back where index[n]
 * says, zeros between, correlated with the transposed filters. The map's values are not read. */
void aps_put(const aps_map *map, const float *taken, const int64_t *index, float *put, aps_parallel_for parallel_for,
             void *runner);

#endif
