/* The words of simd.h in plain C, one lane after the other: what the kernels have to compute, to the bit. */
#ifndef PILOTLIGHT_SIMD_PLAIN_H
#define PILOTLIGHT_SIMD_PLAIN_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define PL_TILE_ROWS 4
#define PL_TILE_BLOCKS 2
#define PL_NARROW_ROWS 4
#define PL_LONE_ROW_SUMS 1
#define PL_SCORE_VECTORS 1
#define PL_VALUE_VECTORS 1

typedef struct { float lane[16]; } pl_floats;
typedef struct { int32_t lane[16]; } pl_ints;
typedef uint16_t pl_mask;
typedef uint16_t pl_lanes;
typedef uint16_t pl_bits;
typedef struct { uint8_t byte[64]; } pl_weights;
typedef struct { int8_t byte[4]; } pl_inputs;
typedef int8_t pl_value;

/* A vector whose lane `i` is `expression`. */
#define EACH(type, expression)                                                                                         \
    type result;                                                                                                       \
    for (int i = 0; i < 16; i++)                                                                                       \
        result.lane[i] = (expression);                                                                                 \
    return result

/* A mask whose bit `i` is `condition`. */
#define EACH_BIT(condition)                                                                                            \
    unsigned result = 0;                                                                                               \
    for (int i = 0; i < 16; i++)                                                                                       \
        result |= (unsigned)(condition) << i;                                                                          \
    return (uint16_t)result

PL_INLINE int is_set(unsigned bits, int i) { return bits >> i & 1; }

PL_INLINE pl_floats f_set1(float x) { EACH(pl_floats, x); }
PL_INLINE pl_floats f_zero(void) { return f_set1(0.0f); }
PL_INLINE pl_floats f_load(const float *from) { EACH(pl_floats, from[i]); }
PL_INLINE pl_floats f_load_lanes(pl_lanes lanes, const float *from) { EACH(pl_floats, is_set(lanes, i) ? from[i] : 0.0f); }
PL_INLINE pl_floats f_load_halves(const uint16_t *from) { EACH(pl_floats, _cvtsh_ss(from[i])); }
PL_INLINE pl_floats f_load_halves_lanes(pl_lanes lanes, const uint16_t *from)
{
    EACH(pl_floats, is_set(lanes, i) ? _cvtsh_ss(from[i]) : 0.0f);
}

PL_INLINE void f_store_lanes(float *to, pl_lanes lanes, pl_floats v)
{
    for (int i = 0; i < 16; i++)
        if (is_set(lanes, i))
            to[i] = v.lane[i];
}

PL_INLINE void f_store_bits(float *to, pl_bits bits, pl_floats v) { f_store_lanes(to, bits, v); }
PL_INLINE void f_store(float *to, pl_floats v) { f_store_lanes(to, 0xffff, v); }

PL_INLINE void f_store_halves(uint16_t *to, pl_floats v)
{
    for (int i = 0; i < 16; i++)
        to[i] = _cvtss_sh(v.lane[i], _MM_FROUND_TO_NEAREST_INT);
}

PL_INLINE pl_floats f_add(pl_floats a, pl_floats b) { EACH(pl_floats, a.lane[i] + b.lane[i]); }
PL_INLINE pl_floats f_sub(pl_floats a, pl_floats b) { EACH(pl_floats, a.lane[i] - b.lane[i]); }
PL_INLINE pl_floats f_mul(pl_floats a, pl_floats b) { EACH(pl_floats, a.lane[i] * b.lane[i]); }
PL_INLINE pl_floats f_div(pl_floats a, pl_floats b) { EACH(pl_floats, a.lane[i] / b.lane[i]); }
PL_INLINE pl_floats f_min(pl_floats a, pl_floats b) { EACH(pl_floats, a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
PL_INLINE pl_floats f_max(pl_floats a, pl_floats b) { EACH(pl_floats, a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
PL_INLINE pl_floats f_abs(pl_floats v) { EACH(pl_floats, fabsf(v.lane[i])); }
PL_INLINE pl_floats f_round(pl_floats v) { EACH(pl_floats, rintf(v.lane[i])); }
PL_INLINE pl_floats f_scale(pl_floats v, pl_floats n) { EACH(pl_floats, isnan(n.lane[i]) ? NAN : ldexpf(v.lane[i], (int)n.lane[i])); }
PL_INLINE pl_floats f_fmadd(pl_floats a, pl_floats b, pl_floats c) { EACH(pl_floats, fmaf(a.lane[i], b.lane[i], c.lane[i])); }
PL_INLINE pl_floats f_fnmadd(pl_floats a, pl_floats b, pl_floats c) { EACH(pl_floats, fmaf(-a.lane[i], b.lane[i], c.lane[i])); }
PL_INLINE pl_floats f_where(pl_mask mask, pl_floats v) { EACH(pl_floats, is_set(mask, i) ? v.lane[i] : 0.0f); }
PL_INLINE pl_floats f_max_where(pl_floats v, pl_mask mask, pl_floats w)
{
    EACH(pl_floats, !is_set(mask, i) || v.lane[i] > w.lane[i] ? v.lane[i] : w.lane[i]);
}
PL_INLINE pl_bits f_unordered(pl_floats v) { EACH_BIT(isnan(v.lane[i]) != 0); }
PL_INLINE pl_floats f_of_ints(pl_ints v) { EACH(pl_floats, (float)v.lane[i]); }
PL_INLINE float f_first(pl_floats v) { return v.lane[0]; }

PL_INLINE float f_reduce_add(pl_floats v)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            v.lane[i] = v.lane[i + half] + v.lane[i];
    return v.lane[0];
}

PL_INLINE float f_reduce_max(pl_floats v)
{
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            v.lane[i] = v.lane[i + half] > v.lane[i] ? v.lane[i + half] : v.lane[i];
    return v.lane[0];
}

PL_INLINE pl_ints i_set1(int32_t x) { EACH(pl_ints, x); }
PL_INLINE pl_ints i_zero(void) { return i_set1(0); }
PL_INLINE pl_ints i_counting(void) { EACH(pl_ints, i); }
PL_INLINE pl_ints i_add(pl_ints a, pl_ints b) { EACH(pl_ints, (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i])); }
PL_INLINE pl_ints i_sub(pl_ints a, pl_ints b) { EACH(pl_ints, (int32_t)((uint32_t)a.lane[i] - (uint32_t)b.lane[i])); }
PL_INLINE pl_ints i_of_floats(pl_floats v) /* what is no int32 becomes the smallest one, as x86 has it */
{
    EACH(pl_ints, fabsf(v.lane[i]) < 0x1p31f ? (int32_t)rintf(v.lane[i]) : INT32_MIN);
}
PL_INLINE pl_mask i_at_least(pl_ints a, pl_ints b) { EACH_BIT(a.lane[i] >= b.lane[i]); }
PL_INLINE pl_mask i_less(pl_ints a, pl_ints b) { EACH_BIT(a.lane[i] < b.lane[i]); }
PL_INLINE pl_mask m_and(pl_mask a, pl_mask b) { return a & b; }

PL_INLINE int32_t i_reduce_add(pl_ints v)
{
    uint32_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += (uint32_t)v.lane[i];
    return (int32_t)sum;
}

PL_INLINE pl_ints i_load_values(const pl_value *from) { EACH(pl_ints, from[i]); }

PL_INLINE void i_store_values(pl_value *to, pl_ints v)
{
    for (int i = 0; i < 16; i++)
        to[i] = (int8_t)(v.lane[i] > 127 ? 127 : v.lane[i] < -128 ? -128 : v.lane[i]);
}

PL_INLINE pl_weights w_load(const uint8_t *from)
{
    pl_weights w;
    memcpy(w.byte, from, sizeof w.byte);
    return w;
}

PL_INLINE pl_inputs x_load(const pl_value *from)
{
    pl_inputs x;
    memcpy(x.byte, from, sizeof x.byte);
    return x;
}

PL_INLINE pl_ints i_dot(pl_ints sums, pl_weights w, pl_inputs x)
{
    for (int i = 0; i < 64; i++)
        sums.lane[i / 4] += w.byte[i] * x.byte[i % 4];
    return sums;
}

PL_INLINE pl_ints i_sum_of_parts(const pl_ints *parts) { return parts[0]; }

PL_INLINE pl_lanes pl_tail(int index, int size) { EACH_BIT(index + i < size); }
PL_INLINE pl_bits pl_tail_bits(int index, int size) { return pl_tail(index, size); }

#endif
