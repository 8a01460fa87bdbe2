/* What is compiled once for each set of instructions: its names end in PL_ISA, so that all of them fit into one library.
 * Python calls those of the decoder and pl_mask_rows. */
#ifndef PILOTLIGHT_KERNELS_H
#define PILOTLIGHT_KERNELS_H

#define PL_JOINED(name, isa) name##_##isa
#define PL_NAMED(name, isa) PL_JOINED(name, isa)
#define pl_product_items PL_NAMED(pl_product_items, PL_ISA)
#define pl_product_item PL_NAMED(pl_product_item, PL_ISA)
#define pl_quantise_row PL_NAMED(pl_quantise_row, PL_ISA)
#define pl_rms_norm PL_NAMED(pl_rms_norm, PL_ISA)
#define pl_rotate PL_NAMED(pl_rotate, PL_ISA)
#define pl_mask_rows PL_NAMED(pl_mask_rows, PL_ISA)
#define pl_attention_scratch_bytes PL_NAMED(pl_attention_scratch_bytes, PL_ISA)
#define pl_cache_write PL_NAMED(pl_cache_write, PL_ISA)
#define pl_attend PL_NAMED(pl_attend, PL_ISA)
#define pl_decoder_create PL_NAMED(pl_decoder_create, PL_ISA)
#define pl_decoder_destroy PL_NAMED(pl_decoder_destroy, PL_ISA)
#define pl_decoder_step PL_NAMED(pl_decoder_step, PL_ISA)

#include "pilotlight.h"
#include "simd.h"

/* ---- matmul.c: int8 weights times int8 activations ---- */

/* T rows of `digits` int8 rows each: x ~ sum over digits of value * scale. `sum` is 128 times the sum of a row's
 * values, which takes the 128 off the weights again. `stride` is the row's length padded to PL_LANES with zeros. */
typedef struct {
    pl_value *value; /* (T * digits, stride) */
    float *scale;    /* (T * digits,) */
    int32_t *sum;    /* (T * digits,) */
    int32_t stride;
    int32_t digits;
} pl_quantised;

typedef enum {
    PL_STORE,   /* out = product */
    PL_ADD,     /* out += product */
    PL_SILU_MUL /* out = silu(gate) * up, where blocks of gate and up rows alternate; half as many columns */
} pl_epilogue;

typedef struct {
    const pl_linear *linear;
    const pl_quantised *x;
    int rows;
    pl_epilogue epilogue;
    float *out; /* (rows, stride) */
    int stride;
} pl_product;

/* A product in items that any threads may compute at any time. */
int pl_product_items(const pl_product *product, int threads);
void pl_product_item(const pl_product *product, int threads, int item);

/* ---- rows.c: what happens to single rows ---- */

/* Quantise `x` (size,) into row `row`. */
void pl_quantise_row(const float *x, int size, pl_quantised *to, int row);
/* `out` = `x` / rms(x), times `weight` where it is not NULL. `out` may be `x`. */
void pl_rms_norm(const float *x, const float *weight, int size, float eps, float *out);
/* Rotate one head in place; `cos` and `sin` are (head_dim / 2,). */
void pl_rotate(float *head, const float *cos, const float *sin, int head_dim);
/* Set to -infinity what is not allowed in some `rows` of `logits` (any, vocab). Of each there is a mask of
 * ceil(vocab / 32) words, in which the bit of an allowed token is set, the lowest bit of the first word for token 0. */
void pl_mask_rows(float *logits, int vocab, const int32_t *rows, int num_rows, const uint32_t *masks);

/* ---- attention.c: over the paged cache ---- */

typedef struct {
    int32_t num_heads;
    int32_t num_kv_heads;
    int32_t head_dim;
    int32_t window; /* keys that a row sees, itself included; 0: all */
} pl_heads;

enum { PL_MAX_QUERIES = 48 }; /* that share a pass over the keys */

size_t pl_attention_scratch_bytes(int head_dim);
void pl_cache_write(const pl_cache *cache, const pl_heads *heads, const pl_span *span, int row, int kv_head,
                    const float *key, const float *value);
/* Attend from rows [first, first + rows) of `span` for one kv head: reads `qkv` and writes `out`, both indexed by row
 * of the step. rows * num_heads / num_kv_heads is at most PL_MAX_QUERIES. */
void pl_attend(const pl_cache *cache, const pl_heads *heads, const pl_span *span, int first, int rows, int kv_head,
               const float *qkv, int qkv_stride, float *out, int out_stride, void *scratch);

/* ---- decoder.c: the step ---- */

typedef struct pl_decoder pl_decoder;

/* Keeps a pointer to `model`, which must outlive it. `max_rows` times the kv heads is at most PL_MAX_ITEMS. NULL when there is no memory. */
pl_decoder *pl_decoder_create(const pl_model *model, int threads, int max_rows);
void pl_decoder_destroy(pl_decoder *decoder);
/* At most `max_rows` rows. Not to be called twice at the same time. */
void pl_decoder_step(pl_decoder *decoder, const pl_step *step);

#endif
