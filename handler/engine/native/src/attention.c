/* Attention over pages of keys and values in half precision, computed in single precision.
 *
 * The queries of all heads that share a kv head, from one row or many, pass over the keys together, a stretch of pages
 * at a time, with a running maximum and sum (FlashAttention, arXiv:2205.14135). Stretches begin at multiples of
 * STRETCH_TOKENS, and a query takes each of them in the same way whoever shares the pass. */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#include "simd.h"

#include <math.h>
#include <string.h>

#include "pilotlight.h"

enum { STRETCH_TOKENS = 128 };
enum { MAX_GROUP = 6 };       /* queries whose sums are held in registers together */
enum { VALUE_VECTORS = 4 };   /* of a value that are summed at the same time */

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
        __m256i k = _mm512_cvtps_ph(_mm512_loadu_ps(key + d), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_si256((void *)halves, k);
        for (int i = 0; i < PL_LANES; i++)
            keys[(size_t)(d + i) * PL_BLOCK_TOKENS] = halves[i];
        __m256i v = _mm512_cvtps_ph(_mm512_loadu_ps(value + d), _MM_FROUND_TO_NEAREST_INT);
        _mm256_storeu_si256((void *)(values + d), v);
    }
}

static void widen(const uint16_t *halves, int count, float *out)
{
    for (int i = 0; i < count; i += PL_LANES)
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(halves + i))));
}

/* scores[q][token] = queries[q] . keys[token] for one page; `count` is a constant where this is inlined. */
PL_INLINE void score_group(const scratch_parts *s, int count, int first, int column, int head_dim)
{
    const float *query = s->queries + (size_t)first * head_dim;
    __m512 low[MAX_GROUP], high[MAX_GROUP];
#pragma GCC unroll 6
    for (int q = 0; q < count; q++)
        low[q] = high[q] = _mm512_setzero_ps();
    for (int d = 0; d < head_dim; d++) {
        __m512 k0 = _mm512_loadu_ps(s->page + (size_t)d * PL_BLOCK_TOKENS);
        __m512 k1 = _mm512_loadu_ps(s->page + (size_t)d * PL_BLOCK_TOKENS + PL_LANES);
#pragma GCC unroll 6
        for (int q = 0; q < count; q++) {
            __m512 element = _mm512_set1_ps(query[(size_t)q * head_dim + d]);
            low[q] = _mm512_fmadd_ps(element, k0, low[q]);
            high[q] = _mm512_fmadd_ps(element, k1, high[q]);
        }
    }
#pragma GCC unroll 6
    for (int q = 0; q < count; q++) {
        float *to = s->scores + (size_t)(first + q) * STRETCH_TOKENS + column;
        _mm512_storeu_ps(to, low[q]);
        _mm512_storeu_ps(to + PL_LANES, high[q]);
    }
}

/* sums[q] += scores[q][token] * values[token] over the first `tokens` of a page, for `vectors` vectors of the value
 * from `d` on. */
PL_INLINE void weigh_group(const scratch_parts *s, int count, int vectors, int first, int column, int tokens, int d,
                           int head_dim)
{
    const float *weight = s->scores + (size_t)first * STRETCH_TOKENS + column;
    float *sum = s->sums + (size_t)first * head_dim + d;
    __m512 total[MAX_GROUP * VALUE_VECTORS];
#pragma GCC unroll 6
    for (int q = 0; q < count; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            total[q * vectors + v] = _mm512_loadu_ps(sum + (size_t)q * head_dim + v * PL_LANES);
    for (int token = 0; token < tokens; token++) {
        const float *value = s->page + (size_t)token * head_dim + d;
        __m512 part[VALUE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            part[v] = _mm512_loadu_ps(value + v * PL_LANES);
#pragma GCC unroll 6
        for (int q = 0; q < count; q++) {
            __m512 w = _mm512_set1_ps(weight[(size_t)q * STRETCH_TOKENS + token]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                total[q * vectors + v] = _mm512_fmadd_ps(w, part[v], total[q * vectors + v]);
        }
    }
#pragma GCC unroll 6
    for (int q = 0; q < count; q++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(sum + (size_t)q * head_dim + v * PL_LANES, total[q * vectors + v]);
}

PL_INLINE void weigh_queries(const scratch_parts *s, int count, int first, int column, int tokens, int head_dim)
{
    int d = 0;
    for (; d + VALUE_VECTORS * PL_LANES <= head_dim; d += VALUE_VECTORS * PL_LANES)
        weigh_group(s, count, VALUE_VECTORS, first, column, tokens, d, head_dim);
    for (; d < head_dim; d += PL_LANES)
        weigh_group(s, count, 1, first, column, tokens, d, head_dim);
}

PL_INLINE void page_group(const scratch_parts *s, int is_values, int count, int first, int column, int tokens,
                          int head_dim)
{
    if (is_values)
        weigh_queries(s, count, first, column, tokens, head_dim);
    else
        score_group(s, count, first, column, head_dim);
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
    __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __mmask16 seen[STRETCH_TOKENS / PL_LANES];
    __m512 largest = _mm512_set1_ps(-INFINITY), added = _mm512_setzero_ps();
    for (int i = 0; i < STRETCH_TOKENS / PL_LANES; i++) {
        __m512i token = _mm512_add_epi32(lane, _mm512_set1_epi32(i * PL_LANES));
        seen[i] = _mm512_cmpge_epi32_mask(token, _mm512_set1_epi32(from)) &
                  _mm512_cmplt_epi32_mask(token, _mm512_set1_epi32(to));
        largest = _mm512_mask_max_ps(largest, seen[i], largest, _mm512_loadu_ps(scores + i * PL_LANES));
    }
    float now = fmaxf(*maximum, _mm512_reduce_max_ps(largest));
    for (int i = 0; i < STRETCH_TOKENS / PL_LANES; i++) {
        __m512 e = pl_exp(_mm512_sub_ps(_mm512_loadu_ps(scores + i * PL_LANES), _mm512_set1_ps(now)));
        e = _mm512_maskz_mov_ps(seen[i], e);
        added = _mm512_add_ps(added, e);
        _mm512_storeu_ps(scores + i * PL_LANES, e);
    }
    float shrink = _mm512_cvtss_f32(pl_exp(_mm512_set1_ps(*maximum - now))); /* first stretch: sums are zeros still */
    *total = *total * shrink + _mm512_reduce_add_ps(added);
    *maximum = now;
    if (shrink != 1.0f)
        for (int d = 0; d < head_dim; d += PL_LANES)
            _mm512_storeu_ps(sum + d, _mm512_mul_ps(_mm512_loadu_ps(sum + d), _mm512_set1_ps(shrink)));
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
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf((float)head_dim));
    for (int q = 0; q < num_queries; q++) {
        const float *query = qkv + (size_t)(first + q / group) * qkv_stride + (kv_head * group + q % group) * head_dim;
        for (int d = 0; d < head_dim; d += PL_LANES)
            _mm512_storeu_ps(s.queries + q * head_dim + d, _mm512_mul_ps(_mm512_loadu_ps(query + d), scale));
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
        __m512 inverse = _mm512_set1_ps(1.0f / total[q]);
        for (int d = 0; d < head_dim; d += PL_LANES)
            _mm512_storeu_ps(to + d, _mm512_mul_ps(_mm512_loadu_ps(s.sums + q * head_dim + d), inverse));
    }
}
