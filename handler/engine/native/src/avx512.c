/* All that is written in the vectors of simd.h, compiled to AVX-512 with VNNI. The compiler is told so before it reads
 * a line. */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#define PL_ISA avx512
#define PL_SIMD "simd_avx512.h"

#include "attention.c"
#include "decoder.c"
#include "matmul.c"
#include "rows.c"
