/* int8 x int8 by vpdpbusd: 64 products a instruction, four of them summed into each 32-bit lane. Integer sums are exact,
 * so their order is free; what follows them in floating point is the same for every row. */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#include "simd.h"

#include <string.h>

#include "pilotlight.h"

enum { MAX_ROWS = 6 };   /* of int8 activations in a tile */
enum { MAX_BLOCKS = 4 }; /* of weights in a tile: 6 x 4 sums, 4 weights and a broadcast fill the 32 registers */
enum { ROWS_PER_ITEM = 48 };
enum { ITEMS_PER_THREAD = 6 }; /* of a product with few rows: handing out an item costs some 0.1 us */
enum { LONE_ROW_SUMS = 4 }; /* a block's sum in so many registers, added at the end */

PL_INLINE __m512i broadcast4(const int8_t *values)
{
    int32_t four;
    memcpy(&four, values, sizeof four);
    return _mm512_set1_epi32(four);
}

/* Scale the integer sums of one output row and block: over its digits, then by the weights' scale, plus the bias. */
PL_INLINE __m512 scaled(const pl_product *p, const __m512i *sums, int step, int first, int block)
{
    int digits = p->x->digits;
    __m512 total = _mm512_setzero_ps();
    for (int digit = 0; digit < digits; digit++) {
        __m512i sum = _mm512_sub_epi32(sums[digit * step], _mm512_set1_epi32(p->x->sum[first + digit]));
        total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(p->x->scale[first + digit]), total);
    }
    __mmask16 lanes = pl_tail(block * PL_LANES, p->linear->out);
    total = _mm512_mul_ps(total, _mm512_maskz_loadu_ps(lanes, p->linear->scale + block * PL_LANES));
    if (p->linear->bias != NULL)
        total = _mm512_add_ps(total, _mm512_maskz_loadu_ps(lanes, p->linear->bias + block * PL_LANES));
    return total;
}

PL_INLINE __m512 silu(__m512 x)
{
    __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(x, _mm512_add_ps(one, pl_exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

/* Finish a tile: `sums` is (rows, blocks), its rows begin at int8 row `first` of x. Never inlined, so that the sums of
 * the caller's loop can stay in registers until they are handed over. */
static __attribute__((noinline)) void finish(const pl_product *p, const __m512i *sums, int rows, int blocks, int first, int block)
{
    for (int row = 0; row < rows; row += p->x->digits) {
        float *out = p->out + (size_t)((first + row) / p->x->digits) * p->stride;
        for (int b = 0; b < blocks; b++) {
            const __m512i *at = sums + row * blocks + b;
            __mmask16 lanes = pl_tail((block + b) * PL_LANES, p->linear->out);
            __m512 value = scaled(p, at, blocks, first + row, block + b);
            float *to = out + (block + b) * PL_LANES;
            switch (p->epilogue) {
            case PL_STORE:
                _mm512_mask_storeu_ps(to, lanes, value);
                break;
            case PL_ADD:
                _mm512_mask_storeu_ps(to, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, to), value));
                break;
            case PL_SILU_MUL:
                b++;
                value = _mm512_mul_ps(silu(value), scaled(p, at + 1, blocks, first + row, block + b));
                _mm512_storeu_ps(out + (block + b) / 2 * PL_LANES, value);
                break;
            }
        }
    }
}

/* `rows` and `blocks` are constants where this is inlined: the loops over them vanish and `sums` is registers. */
PL_INLINE void tile(const pl_product *p, int rows, int blocks, int first, int block)
{
    int stride = p->x->stride, steps = stride / 4;
    const int8_t *x = p->x->value + (size_t)first * stride;
    const uint8_t *weight = p->linear->weight + (size_t)block * stride * PL_LANES;
    __m512i sums[MAX_ROWS * MAX_BLOCKS], totals[MAX_ROWS * MAX_BLOCKS];
#pragma GCC unroll 24
    for (int i = 0; i < rows * blocks; i++)
        sums[i] = _mm512_setzero_si512();
    for (int step = 0; step < steps; step++) {
        __m512i w[MAX_BLOCKS];
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++)
            w[b] = _mm512_loadu_si512(weight + (size_t)b * stride * PL_LANES + (size_t)step * 64);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            __m512i four = broadcast4(x + (size_t)row * stride + step * 4);
#pragma GCC unroll 4
            for (int b = 0; b < blocks; b++)
                sums[row * blocks + b] = _mm512_dpbusd_epi32(sums[row * blocks + b], w[b], four);
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < rows * blocks; i++)
        totals[i] = sums[i];
    finish(p, totals, rows, blocks, first, block);
}

/* One or two rows wait for memory, which is fastest in one stream: block after block, several sums for each. */
PL_INLINE void narrow_tile(const pl_product *p, int rows, int blocks, int first, int block)
{
    int stride = p->x->stride, steps = stride / 4;
    const int8_t *x = p->x->value + (size_t)first * stride;
    __m512i sums[2 * MAX_BLOCKS];
    for (int b = 0; b < blocks; b++) {
        const uint8_t *weight = p->linear->weight + (size_t)(block + b) * stride * PL_LANES;
        __m512i part[2 * LONE_ROW_SUMS];
#pragma GCC unroll 8
        for (int i = 0; i < 2 * LONE_ROW_SUMS; i++)
            part[i] = _mm512_setzero_si512();
        int step = 0;
        for (; step + LONE_ROW_SUMS <= steps; step += LONE_ROW_SUMS)
#pragma GCC unroll 4
            for (int i = 0; i < LONE_ROW_SUMS; i++) {
                __m512i w = _mm512_loadu_si512(weight + (size_t)(step + i) * 64);
                _mm_prefetch((const char *)weight + (size_t)(step + i) * 64 + 2048, _MM_HINT_T0);
#pragma GCC unroll 2
                for (int row = 0; row < rows; row++)
                    part[row * LONE_ROW_SUMS + i] = _mm512_dpbusd_epi32(
                        part[row * LONE_ROW_SUMS + i], w, broadcast4(x + (size_t)row * stride + (step + i) * 4));
            }
        for (; step < steps; step++)
#pragma GCC unroll 2
            for (int row = 0; row < rows; row++)
                part[row * LONE_ROW_SUMS] =
                    _mm512_dpbusd_epi32(part[row * LONE_ROW_SUMS], _mm512_loadu_si512(weight + (size_t)step * 64),
                                        broadcast4(x + (size_t)row * stride + step * 4));
#pragma GCC unroll 2
        for (int row = 0; row < rows; row++) {
            __m512i *q = part + row * LONE_ROW_SUMS;
            sums[row * blocks + b] = _mm512_add_epi32(_mm512_add_epi32(q[0], q[1]), _mm512_add_epi32(q[2], q[3]));
        }
    }
    finish(p, sums, rows, blocks, first, block);
}

PL_INLINE void tile_of_blocks(const pl_product *p, int rows, int blocks, int first, int block)
{
    switch (rows) {
    case 1: narrow_tile(p, 1, blocks, first, block); break;
    case 2: narrow_tile(p, 2, blocks, first, block); break;
    case 3: tile(p, 3, blocks, first, block); break;
    case 4: tile(p, 4, blocks, first, block); break;
    case 5: tile(p, 5, blocks, first, block); break;
    default: tile(p, 6, blocks, first, block); break;
    }
}

static void tiles(const pl_product *p, int rows, int blocks, int first, int block)
{
    switch (blocks) {
    case 1: tile_of_blocks(p, rows, 1, first, block); break;
    case 2: tile_of_blocks(p, rows, 2, first, block); break;
    case 3: tile_of_blocks(p, rows, 3, first, block); break;
    default: tile_of_blocks(p, rows, 4, first, block); break;
    }
}

/* How many blocks an item takes, so that the threads get equal shares; gate and up must stay together. */
static int blocks_per_item(int blocks, int bands, int threads, int is_paired)
{
    int step = is_paired ? 2 : 1, best = 0, best_share = 1 << 30;
    int least = bands > 1 ? 2 : blocks / (threads * ITEMS_PER_THREAD) / step * step;
    least = least < 2 ? 2 : least;
    for (int width = least; width <= least + MAX_BLOCKS - 2; width += step) {
        int items = (blocks + width - 1) / width;
        int share = (items + threads - 1) / threads * width;
        if (share <= best_share) {
            best = width;
            best_share = share;
        }
    }
    return best;
}

typedef struct {
    int blocks;  /* in all */
    int width;   /* blocks of an item */
    int columns; /* items side by side */
    int bands;   /* and on top of each other */
} grid;

static grid grid_of(const pl_product *p, int threads)
{
    grid g = {.blocks = (p->linear->out + PL_LANES - 1) / PL_LANES};
    g.bands = (p->rows + ROWS_PER_ITEM - 1) / ROWS_PER_ITEM;
    g.width = blocks_per_item(g.blocks, g.bands, threads, p->epilogue == PL_SILU_MUL);
    while ((int64_t)((g.blocks + g.width - 1) / g.width) * g.bands > PL_MAX_ITEMS)
        g.width *= 2;
    g.columns = (g.blocks + g.width - 1) / g.width;
    return g;
}

int pl_product_items(const pl_product *p, int threads)
{
    grid g = grid_of(p, threads);
    return g.columns * g.bands;
}

void pl_product_item(const pl_product *p, int threads, int item)
{
    grid g = grid_of(p, threads);
    int begin = item / g.bands * g.width, band = item % g.bands;
    int end = begin + g.width < g.blocks ? begin + g.width : g.blocks;
    int first = (int)((int64_t)band * p->rows / g.bands), rows = (int)((int64_t)(band + 1) * p->rows / g.bands) - first;
    int most = MAX_ROWS / p->x->digits, num_tiles = (rows + most - 1) / most;
    for (int block = begin; block < end; block += MAX_BLOCKS)
        for (int t = 0; t < num_tiles; t++) {
            int from = first + rows * t / num_tiles, to = first + rows * (t + 1) / num_tiles;
            tiles(p, (to - from) * p->x->digits, end - block < MAX_BLOCKS ? end - block : MAX_BLOCKS,
                  from * p->x->digits, block);
        }
}
