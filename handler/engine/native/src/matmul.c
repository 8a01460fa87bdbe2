/* int8 x int8, four products summed into each 32-bit lane. Integer sums are exact, so their order is free; what follows
 * them in floating point is the same for every row. */
#include "kernels.h"

enum { ROWS_PER_ITEM = 48 };
enum { ITEMS_PER_THREAD = 6 }; /* of a product with few rows: handing out an item costs some 0.1 us */
enum { WIDTHS_TRIED = 3 };     /* of items, for equal shares */

/* Scale the integer sums of one output row and block: over its digits, then by the weights' scale, plus the bias. */
PL_INLINE pl_floats scaled(const pl_product *p, const pl_ints *sums, int step, int first, int block)
{
    int digits = p->x->digits;
    pl_floats total = f_zero();
    for (int digit = 0; digit < digits; digit++) {
        pl_ints sum = i_sub(sums[digit * step], i_set1(p->x->sum[first + digit]));
        total = f_fmadd(f_of_ints(sum), f_set1(p->x->scale[first + digit]), total);
    }
    pl_lanes lanes = pl_tail(block * PL_LANES, p->linear->out);
    total = f_mul(total, f_load_lanes(lanes, p->linear->scale + block * PL_LANES));
    if (p->linear->bias != NULL)
        total = f_add(total, f_load_lanes(lanes, p->linear->bias + block * PL_LANES));
    return total;
}

PL_INLINE pl_floats silu(pl_floats x)
{
    pl_floats one = f_set1(1.0f);
    return f_div(x, f_add(one, pl_exp(f_sub(f_zero(), x))));
}

/* Finish a tile: `sums` is (rows, blocks), its rows begin at int8 row `first` of x. Never inlined, so that the sums of
 * the caller's loop can stay in registers until they are handed over. */
static __attribute__((noinline)) void finish(const pl_product *p, const pl_ints *sums, int rows, int blocks, int first, int block)
{
    for (int row = 0; row < rows; row += p->x->digits) {
        float *out = p->out + (size_t)((first + row) / p->x->digits) * p->stride;
        for (int b = 0; b < blocks; b++) {
            const pl_ints *at = sums + row * blocks + b;
            pl_lanes lanes = pl_tail((block + b) * PL_LANES, p->linear->out);
            pl_floats value = scaled(p, at, blocks, first + row, block + b);
            float *to = out + (block + b) * PL_LANES;
            switch (p->epilogue) {
            case PL_STORE:
                f_store_lanes(to, lanes, value);
                break;
            case PL_ADD:
                f_store_lanes(to, lanes, f_add(f_load_lanes(lanes, to), value));
                break;
            case PL_SILU_MUL:
                b++;
                value = f_mul(silu(value), scaled(p, at + 1, blocks, first + row, block + b));
                f_store(out + (block + b) / 2 * PL_LANES, value);
                break;
            }
        }
    }
}

#if PL_NARROW_ROWS < PL_TILE_ROWS
/* `rows` and `blocks` are constants where this is inlined: the loops over them vanish and `sums` is registers. */
PL_INLINE void tile(const pl_product *p, int rows, int blocks, int first, int block)
{
    int stride = p->x->stride, steps = stride / 4;
    const pl_value *x = p->x->value + (size_t)first * stride;
    const uint8_t *weight = p->linear->weight + (size_t)block * stride * PL_LANES;
    pl_ints sums[PL_TILE_ROWS * PL_TILE_BLOCKS], totals[PL_TILE_ROWS * PL_TILE_BLOCKS];
#pragma GCC unroll 24
    for (int i = 0; i < rows * blocks; i++)
        sums[i] = i_zero();
    for (int step = 0; step < steps; step++) {
        pl_weights w[PL_TILE_BLOCKS];
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++)
            w[b] = w_load(weight + (size_t)b * stride * PL_LANES + (size_t)step * 64);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            pl_inputs four = x_load(x + (size_t)row * stride + step * 4);
#pragma GCC unroll 4
            for (int b = 0; b < blocks; b++)
                sums[row * blocks + b] = i_dot(sums[row * blocks + b], w[b], four);
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < rows * blocks; i++)
        totals[i] = sums[i];
    finish(p, totals, rows, blocks, first, block);
}
#endif

/* One or two rows wait for memory, which is fastest in one stream: block after block, several sums for each. And where
 * registers are few, more rows share a block in this way too. */
PL_INLINE void narrow_tile(const pl_product *p, int rows, int blocks, int first, int block)
{
    int stride = p->x->stride, steps = stride / 4;
    const pl_value *x = p->x->value + (size_t)first * stride;
    pl_ints sums[PL_NARROW_ROWS * PL_TILE_BLOCKS];
    for (int b = 0; b < blocks; b++) {
        const uint8_t *weight = p->linear->weight + (size_t)(block + b) * stride * PL_LANES;
        pl_ints part[PL_NARROW_ROWS * PL_LONE_ROW_SUMS];
#pragma GCC unroll 8
        for (int i = 0; i < PL_NARROW_ROWS * PL_LONE_ROW_SUMS; i++)
            part[i] = i_zero();
        int step = 0;
        for (; step + PL_LONE_ROW_SUMS <= steps; step += PL_LONE_ROW_SUMS)
#pragma GCC unroll 4
            for (int i = 0; i < PL_LONE_ROW_SUMS; i++) {
                pl_weights w = w_load(weight + (size_t)(step + i) * 64);
                _mm_prefetch((const char *)weight + (size_t)(step + i) * 64 + 2048, _MM_HINT_T0);
#pragma GCC unroll 4
                for (int row = 0; row < rows; row++)
                    part[row * PL_LONE_ROW_SUMS + i] = i_dot(
                        part[row * PL_LONE_ROW_SUMS + i], w, x_load(x + (size_t)row * stride + (step + i) * 4));
            }
        for (; step < steps; step++)
#pragma GCC unroll 4
            for (int row = 0; row < rows; row++)
                part[row * PL_LONE_ROW_SUMS] =
                    i_dot(part[row * PL_LONE_ROW_SUMS], w_load(weight + (size_t)step * 64),
                                        x_load(x + (size_t)row * stride + step * 4));
#pragma GCC unroll 4
        for (int row = 0; row < rows; row++) {
            pl_ints *q = part + row * PL_LONE_ROW_SUMS;
            sums[row * blocks + b] = i_sum_of_parts(q);
        }
    }
    finish(p, sums, rows, blocks, first, block);
}

PL_INLINE void tile_of_blocks(const pl_product *p, int rows, int blocks, int first, int block)
{
    switch (rows) {
    case 1: narrow_tile(p, 1, blocks, first, block); break;
    case 2: narrow_tile(p, 2, blocks, first, block); break;
#if PL_NARROW_ROWS < PL_TILE_ROWS
    case 3: tile(p, 3, blocks, first, block); break;
    case 4: tile(p, 4, blocks, first, block); break;
    case 5: tile(p, 5, blocks, first, block); break;
    default: tile(p, 6, blocks, first, block); break;
#else
    case 3: narrow_tile(p, 3, blocks, first, block); break;
    default: narrow_tile(p, 4, blocks, first, block); break;
#endif
    }
}

static void tiles(const pl_product *p, int rows, int blocks, int first, int block)
{
    switch (blocks) {
    case 1: tile_of_blocks(p, rows, 1, first, block); break;
#if PL_TILE_BLOCKS > 2
    case 2: tile_of_blocks(p, rows, 2, first, block); break;
    case 3: tile_of_blocks(p, rows, 3, first, block); break;
    default: tile_of_blocks(p, rows, 4, first, block); break;
#else
    default: tile_of_blocks(p, rows, 2, first, block); break;
#endif
    }
}

/* How many blocks an item takes, so that the threads get equal shares; gate and up must stay together. */
static int blocks_per_item(int blocks, int bands, int threads, int is_paired)
{
    int step = is_paired ? 2 : 1, best = 0, best_share = 1 << 30;
    int least = bands > 1 ? 2 : blocks / (threads * ITEMS_PER_THREAD) / step * step;
    least = least < 2 ? 2 : least;
    for (int width = least; width < least + WIDTHS_TRIED; width += step) {
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
    int most = PL_TILE_ROWS / p->x->digits, num_tiles = (rows + most - 1) / most;
    for (int block = begin; block < end; block += PL_TILE_BLOCKS)
        for (int t = 0; t < num_tiles; t++) {
            int from = first + rows * t / num_tiles, to = first + rows * (t + 1) / num_tiles;
            tiles(p, (to - from) * p->x->digits, end - block < PL_TILE_BLOCKS ? end - block : PL_TILE_BLOCKS,
                  from * p->x->digits, block);
        }
}
