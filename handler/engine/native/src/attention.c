/* Attention over pages of keys and values in half precision, computed in single precision.
 *
 * The queries of all heads that share a kv head, from one row or many, pass over the keys together, a stretch of pages
 * at a time, with a running maximum and sum (FlashAttention, arXiv:2205.14135). Stretches begin at multiples of
 * STRETCH_TOKENS, and a query takes each of them in the same way whoever shares the pass. */
#include <math.h>
#include <string.h>

#include "kernels.h"

enum { STRETCH_TOKENS = 128 };
enum { MAX_GROUP = 6 };       /* queries whose sums are held in registers together */

typedef struct {
    float *page;    /* (head_dim, PL_BLOCK_TOKENS) keys or (PL_BLOCK_TOKENS, head_dim) values in single precision */
    float *queries; /* (PL_MAX_QUERIES, head_dim) */
    float *sums;    /* (PL_MAX_QUERIES, head_dim): values weighted so far */
    float *scores;  /* (PL_MAX_QUERIES, STRETCH_TOKENS) */
} scratch_parts;

size_t pl_attention_scratch_bytes(int head_dim)
{
    return sizeof(float) * ((size_t)head_dim * (PL_BLOCK_TOKENS + 2 * PL_MAX_QUERIES) + PL_MAX_QUERIES * STRETCH_TOKENS);
}

static scratch_parts parts_of(void *scratch, int head_dim)
{
    scratch_parts parts = {.page = scratch};
    parts.queries = parts.page + PL_BLOCK_TOKENS * head_dim;
    parts.sums = parts.queries + PL_MAX_QUERIES * head_dim;
    parts.scores = parts.sums + PL_MAX_QUERIES * head_dim;
    return parts;
}

static size_t page_of(const pl_heads *heads, int block, int kv_head)
{
    return ((size_t)block * heads->num_kv_heads + kv_head) * PL_BLOCK_TOKENS * heads->head_dim;
}

void pl_cache_write(const pl_cache *cache, const pl_heads *heads, const pl_span *span, int row, int kv_head,
                    const float *key, const float *value)
{
    int position = span->first_position + row - span->first_row;
    int token = position % PL_BLOCK_TOKENS;
    size_t page = page_of(heads, span->block_table[position / PL_BLOCK_TOKENS], kv_head);
    uint16_t *keys = cache->keys + page + token, *values = cache->values + page + (size_t)token * heads->head_dim;
    for (int d = 0; d < heads->head_dim; d += PL_LANES) {
        uint16_t halves[PL_LANES];
        f_store_halves(halves, f_load(key + d));
        for (int i = 0; i < PL_LANES; i++)
            keys[(size_t)(d + i) * PL_BLOCK_TOKENS] = halves[i];
        f_store_halves(values + d, f_load(value + d));
    }
}

static void widen(const uint16_t *halves, int count, float *out)
{
    for (int i = 0; i < count; i += PL_LANES)
        f_store(out + i, f_load_halves(halves + i));
}

/* scores[q][token] = queries[q] . keys[token] for a page, or its half from `token` on where PL_SCORE_VECTORS is 1 and
 * `high` is nothing. `count` and `token` are constants where this is inlined. */
PL_INLINE void score_group(const scratch_parts *s, int count, int first, int column, int token, int head_dim)
{
    const float *query = s->queries + (size_t)first * head_dim;
    pl_floats low[MAX_GROUP], high[MAX_GROUP];
#pragma GCC unroll 6
    for (int q = 0; q < count; q++)
        low[q] = high[q] = f_zero();
    for (int d = 0; d < head_dim; d++) {
        pl_floats k0 = f_load(s->page + (size_t)d * PL_BLOCK_TOKENS + token);
        pl_floats k1 = f_load(s->page + (size_t)d * PL_BLOCK_TOKENS + PL_LANES);
#pragma GCC unroll 6
        for (int q = 0; q < count; q++) {
            pl_floats element = f_set1(query[(size_t)q * head_dim + d]);
            low[q] = f_fmadd(element, k0, low[q]);
            if (PL_SCORE_VECTORS == 2)
                high[q] = f_fmadd(element, k1, high[q]);
        }
    }
#pragma GCC unroll 6
    for (int q = 0; q < count; q++) {
        float *to = s->scores + (size_t)(first + q) * STRETCH_TOKENS + column + token;
        f_store(to, low[q]);
        if (PL_SCORE_VECTORS == 2)
            f_store(to + PL_LANES, high[q]);
    }
}

/* sums[q] += scores[q][token] * values[token] over the first `tokens` of a page, for `vectors` vectors of the value
 * from `d` on. */
PL_INLINE void weigh_group(const scratch_parts *s, int count, int vectors, int first, int column, int tokens, int d,
                           int head_dim)
{
    const float *weight = s->scores + (size_t)first * STRETCH_TOKENS + column;
    float *sum = s->sums + (size_t)first * head_dim + d;
    pl_floats total[MAX_GROUP * PL_VALUE_VECTORS];
#pragma GCC unroll 6
    for (int q = 0; q < count; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            total[q * vectors + v] = f_load(sum + (size_t)q * head_dim + v * PL_LANES);
    for (int token = 0; token < tokens; token++) {
        const float *value = s->page + (size_t)token * head_dim + d;
        pl_floats part[PL_VALUE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            part[v] = f_load(value + v * PL_LANES);
#pragma GCC unroll 6
        for (int q = 0; q < count; q++) {
            pl_floats w = f_set1(weight[(size_t)q * STRETCH_TOKENS + token]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                total[q * vectors + v] = f_fmadd(w, part[v], total[q * vectors + v]);
        }
    }
#pragma GCC unroll 6
    for (int q = 0; q < count; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            f_store(sum + (size_t)q * head_dim + v * PL_LANES, total[q * vectors + v]);
}

PL_INLINE void weigh_queries(const scratch_parts *s, int count, int first, int column, int tokens, int head_dim)
{
    int d = 0;
    for (; d + PL_VALUE_VECTORS * PL_LANES <= head_dim; d += PL_VALUE_VECTORS * PL_LANES)
        weigh_group(s, count, PL_VALUE_VECTORS, first, column, tokens, d, head_dim);
    for (; d < head_dim; d += PL_LANES)
        weigh_group(s, count, 1, first, column, tokens, d, head_dim);
}

PL_INLINE void page_group(const scratch_parts *s, int is_values, int count, int first, int column, int tokens,
                          int head_dim)
{
    if (is_values)
        weigh_queries(s, count, first, column, tokens, head_dim);
    else {
        score_group(s, count, first, column, 0, head_dim);
        if (PL_SCORE_VECTORS == 1)
            score_group(s, count, first, column, PL_LANES, head_dim);
    }
}

static void for_queries(const scratch_parts *s, int is_values, int num_queries, int column, int tokens, int head_dim)
{
    for (int first = 0; first < num_queries; first += MAX_GROUP) {
        switch (num_queries - first) {
        case 1: page_group(s, is_values, 1, first, column, tokens, head_dim); break;
        case 2: page_group(s, is_values, 2, first, column, tokens, head_dim); break;
        case 3: page_group(s, is_values, 3, first, column, tokens, head_dim); break;
        case 4: page_group(s, is_values, 4, first, column, tokens, head_dim); break;
        case 5: page_group(s, is_values, 5, first, column, tokens, head_dim); break;
        default: page_group(s, is_values, 6, first, column, tokens, head_dim); break;
        }
    }
}

/* Turn one query's scores of a stretch into weights; keys outside [from, to) of the stretch weigh nothing. */
static void soften(const scratch_parts *s, int query, int from, int to, int head_dim, float *maximum, float *total)
{
    float *scores = s->scores + (size_t)query * STRETCH_TOKENS, *sum = s->sums + (size_t)query * head_dim;
    pl_ints lane = i_counting();
    pl_mask seen[STRETCH_TOKENS / PL_LANES];
    pl_floats largest = f_set1(-INFINITY), added = f_zero();
    for (int i = 0; i < STRETCH_TOKENS / PL_LANES; i++) {
        pl_ints token = i_add(lane, i_set1(i * PL_LANES));
        seen[i] = m_and(i_at_least(token, i_set1(from)), i_less(token, i_set1(to)));
        largest = f_max_where(largest, seen[i], f_load(scores + i * PL_LANES));
    }
    float now = fmaxf(*maximum, f_reduce_max(largest));
    for (int i = 0; i < STRETCH_TOKENS / PL_LANES; i++) {
        pl_floats e = pl_exp(f_sub(f_load(scores + i * PL_LANES), f_set1(now)));
        e = f_where(seen[i], e);
        added = f_add(added, e);
        f_store(scores + i * PL_LANES, e);
    }
    float shrink = f_first(pl_exp(f_set1(*maximum - now))); /* first stretch: sums are zeros still */
    *total = *total * shrink + f_reduce_add(added);
    *maximum = now;
    if (shrink != 1.0f)
        for (int d = 0; d < head_dim; d += PL_LANES)
            f_store(sum + d, f_mul(f_load(sum + d), f_set1(shrink)));
}

void pl_attend(const pl_cache *cache, const pl_heads *heads, const pl_span *span, int first, int rows, int kv_head,
               const float *qkv, int qkv_stride, float *out, int out_stride, void *scratch)
{
    int head_dim = heads->head_dim, group = heads->num_heads / heads->num_kv_heads, num_queries = rows * group;
    int position = span->first_position + first - span->first_row; /* of the first row */
    int begin = heads->window && position + 1 > heads->window ? position + 1 - heads->window : 0;
    int end = position + rows;
    scratch_parts s = parts_of(scratch, head_dim);
    float maximum[PL_MAX_QUERIES], total[PL_MAX_QUERIES];
    pl_floats scale = f_set1(1.0f / sqrtf((float)head_dim));
    for (int q = 0; q < num_queries; q++) {
        const float *query = qkv + (size_t)(first + q / group) * qkv_stride + (kv_head * group + q % group) * head_dim;
        for (int d = 0; d < head_dim; d += PL_LANES)
            f_store(s.queries + q * head_dim + d, f_mul(f_load(query + d), scale));
        maximum[q] = -INFINITY;
        total[q] = 0.0f;
    }
    memset(s.sums, 0, sizeof(float) * num_queries * head_dim);
    for (int stretch = begin / STRETCH_TOKENS * STRETCH_TOKENS; stretch < end; stretch += STRETCH_TOKENS) {
        int columns = end - stretch < STRETCH_TOKENS ? end - stretch : STRETCH_TOKENS;
        for (int column = 0; column < columns; column += PL_BLOCK_TOKENS) {
            int block = span->block_table[(stretch + column) / PL_BLOCK_TOKENS];
            widen(cache->keys + page_of(heads, block, kv_head), PL_BLOCK_TOKENS * head_dim, s.page);
            for_queries(&s, 0, num_queries, column, PL_BLOCK_TOKENS, head_dim);
        }
        for (int q = 0; q < num_queries; q++) {
            int own = position + q / group; /* the last key that this query sees */
            int from = heads->window ? own + 1 - heads->window - stretch : 0;
            if (own >= stretch && from < STRETCH_TOKENS)
                soften(&s, q, from, own + 1 - stretch, head_dim, &maximum[q], &total[q]);
            else
                memset(s.scores + q * STRETCH_TOKENS, 0, sizeof(float) * STRETCH_TOKENS);
        }
        for (int column = 0; column < columns; column += PL_BLOCK_TOKENS) {
            int block = span->block_table[(stretch + column) / PL_BLOCK_TOKENS];
            widen(cache->values + page_of(heads, block, kv_head), PL_BLOCK_TOKENS * head_dim, s.page);
            int left = columns - column; /* what lies behind was another sequence's, and 0 * NaN is NaN */
            for_queries(&s, 1, num_queries, column, left < PL_BLOCK_TOKENS ? left : PL_BLOCK_TOKENS, head_dim);
        }
    }
    for (int q = 0; q < num_queries; q++) {
        float *to = out + (size_t)(first + q / group) * out_stride + (kv_head * group + q % group) * head_dim;
        pl_floats inverse = f_set1(1.0f / total[q]);
        for (int d = 0; d < head_dim; d += PL_LANES)
            f_store(to + d, f_mul(f_load(s.sums + q * head_dim + d), inverse));
    }
}
