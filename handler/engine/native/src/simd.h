/* Vectors of 16 lanes, in whichever instructions this translation unit is compiled to: PL_SIMD has them.
 *
 * The kernels are written once, in these words. Floating point is the same to the last bit in all instruction sets: each
 * lane sees the same operations in the same order, and what runs across lanes folds halves onto each other, as GCC's
 * reductions for AVX-512 do (another compiler's may not). Integers are exact anyway. tests/engine/native has the words
 * in plain C, and holds the others to its bits.
 *
 *   pl_floats, pl_ints   16 numbers of 32 bits; what works on them begins with f_ and i_
 *   pl_mask              16 answers to a comparison
 *   pl_lanes             the first so many lanes: those of a vector that lie below the end of a row
 *   pl_bits              one bit for each lane
 *   pl_value             how an int8 activation is stored
 *   pl_weights           four weights in each lane, each plus 128
 *   pl_inputs            the four activations that belong to them, in every lane
 *   i_dot(s, w, x)       s plus the sum of the four products of each lane
 *   f_load_lanes, f_store_lanes    touch no memory but that of the lanes; the others are read as zeros
 *
 * How many vectors fit into the registers at a time is for the instruction set to say:
 *
 *   PL_TILE_ROWS, PL_TILE_BLOCKS    rows and blocks of weights in a tile of a product
 *   PL_NARROW_ROWS, PL_LONE_ROW_SUMS    tiles of so many rows or fewer take block after block, with so many sums for each
 *   PL_SCORE_VECTORS, PL_VALUE_VECTORS    of keys and of a value that are summed together
 */
#ifndef PILOTLIGHT_SIMD_H
#define PILOTLIGHT_SIMD_H

#ifndef PL_INLINE
#define PL_INLINE static inline __attribute__((always_inline))
#endif

#include PL_SIMD

/* e^x for x in [-87, 88]; arguments outside are taken as the border. NaN stays NaN: of two
 * operands min and max return the second if one is NaN. Relative error below 2e-7 (Cephes' polynomial). */
PL_INLINE pl_floats pl_exp(pl_floats x)
{
    x = f_min(f_set1(88.0f), f_max(f_set1(-87.0f), x));
    pl_floats n = f_round(f_mul(x, f_set1(1.44269504088896341f)));
    pl_floats r = f_fnmadd(n, f_set1(0.693359375f), x);
    r = f_fnmadd(n, f_set1(-2.12194440e-4f), r);
    pl_floats p = f_set1(1.9875691500e-4f);
    p = f_fmadd(p, r, f_set1(1.3981999507e-3f));
    p = f_fmadd(p, r, f_set1(8.3334519073e-3f));
    p = f_fmadd(p, r, f_set1(4.1665795894e-2f));
    p = f_fmadd(p, r, f_set1(1.6666665459e-1f));
    p = f_fmadd(p, r, f_set1(5.0000001201e-1f));
    p = f_fmadd(p, f_mul(r, r), f_add(r, f_set1(1.0f)));
    return f_scale(p, n);
}

#endif
