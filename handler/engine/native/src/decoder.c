/* One step, as phases whose items the team shares. */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* Kinds of phases. Those of a layer come first, in order. */
enum {
    NORM_BEFORE_ATTENTION,
    QKV,
    PLACE,
    ATTEND,
    QUANTISE_ATTENDED,
    OUTPUT,
    NORM_BEFORE_MLP,
    GATE_UP,
    QUANTISE_INNER,
    DOWN,
    LAYER_PHASES,
    LAST_NORM = LAYER_PHASES,
    HEAD,
    EMBED
};

typedef struct {
    int32_t span;
    int32_t first;
    int32_t rows;
} attention_tile;

struct pl_decoder {
    const pl_model *model;
    pl_team *team;
    const pl_step *step;
    float *hidden;            /* (max_rows, hidden_size): the residual stream */
    float *heads;             /* (max_rows, queries, keys, values) */
    float *attended;          /* (max_rows, num_heads * head_dim) */
    float *activated;         /* (max_rows, intermediate_size) */
    float *normed;            /* (threads, hidden_size) */
    char *scratch;            /* (threads, scratch_bytes) */
    size_t scratch_bytes;
    attention_tile *tiles;    /* (max_rows,) */
    int num_tiles;
    pl_quantised of_hidden;   /* these three share their memory: no phase needs two of them */
    pl_quantised of_attended;
    pl_quantised of_inner;
};

static int padded(int size) { return (size + PL_LANES - 1) / PL_LANES * PL_LANES; }

static int larger(int a, int b) { return a > b ? a : b; }

static int qkv_size(const pl_model *model) { return (model->num_heads + 2 * model->num_kv_heads) * model->head_dim; }

static int attended_size(const pl_model *model) { return model->num_heads * model->head_dim; }

/* Zeros, aligned to cache lines. */
static void *take(size_t count, size_t size)
{
    size_t bytes = (count * size + 63) / 64 * 64;
    void *memory = aligned_alloc(64, bytes);
    return memory == NULL ? NULL : memset(memory, 0, bytes);
}

pl_decoder *pl_decoder_create(const pl_model *model, int threads, int max_rows)
{
    pl_decoder *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->model = model;
    d->team = pl_team_create(threads);
    int widest = larger(model->hidden_size, larger(attended_size(model),
                                                   model->down_digits * padded(model->intermediate_size)));
    size_t rows = (size_t)max_rows;
    size_t digits = (size_t)model->down_digits;
    d->scratch_bytes = pl_attention_scratch_bytes(model->head_dim);
    d->hidden = take(rows * model->hidden_size, sizeof(float));
    d->heads = take(rows * qkv_size(model), sizeof(float));
    d->attended = take(rows * attended_size(model), sizeof(float));
    d->activated = take(rows * padded(model->intermediate_size), sizeof(float));
    d->normed = take((size_t)threads * model->hidden_size, sizeof(float));
    d->scratch = take((size_t)threads * d->scratch_bytes, 1);
    d->tiles = take(rows, sizeof *d->tiles);
    d->of_hidden = (pl_quantised){take(rows * padded(widest), sizeof(pl_value)), take(rows * digits, sizeof(float)),
                                  take(rows * digits, sizeof(int32_t)), padded(model->hidden_size), 1};
    if (d->team == NULL || d->hidden == NULL || d->heads == NULL || d->attended == NULL || d->activated == NULL ||
        d->normed == NULL || d->scratch == NULL || d->tiles == NULL || d->of_hidden.value == NULL ||
        d->of_hidden.scale == NULL || d->of_hidden.sum == NULL) {
        pl_decoder_destroy(d);
        return NULL;
    }
    d->of_attended = d->of_inner = d->of_hidden;
    d->of_attended.stride = padded(attended_size(model));
    d->of_inner.stride = padded(model->intermediate_size);
    d->of_inner.digits = model->down_digits;
    return d;
}

void pl_decoder_destroy(pl_decoder *d)
{
    if (d->team != NULL)
        pl_team_destroy(d->team);
    void *buffers[] = {d->hidden,  d->heads, d->attended,        d->activated,       d->normed,
                       d->scratch, d->tiles, d->of_hidden.value, d->of_hidden.scale, d->of_hidden.sum};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        free(buffers[i]);
    free(d);
}

/* Queries of one pass over the keys: as many rows as fit, all of one span. */
static void plan_tiles(pl_decoder *d)
{
    int most = larger(1, PL_MAX_QUERIES / (d->model->num_heads / d->model->num_kv_heads));
    d->num_tiles = 0;
    for (int span = 0; span < d->step->num_spans; span++)
        for (int row = 0, all = d->step->spans[span].num_rows; row < all; row += most)
            d->tiles[d->num_tiles++] =
                (attention_tile){span, d->step->spans[span].first_row + row, all - row < most ? all - row : most};
}

static void embed(pl_decoder *d, int row)
{
    int size = d->model->hidden_size;
    const uint16_t *from = d->model->embedding + (size_t)d->step->tokens[row] * size;
    float *to = d->hidden + (size_t)row * size;
    for (int i = 0; i < size; i += PL_LANES) {
        pl_lanes lanes = pl_tail(i, size);
        f_store_lanes(to + i, lanes, f_load_halves_lanes(lanes, from + i));
    }
}

static void norm_and_quantise(pl_decoder *d, int thread, int from, pl_quantised to, int row)
{
    int size = d->model->hidden_size;
    float *normed = d->normed + (size_t)thread * size;
    pl_rms_norm(d->hidden + (size_t)from * size, NULL, size, d->model->rms_norm_eps, normed);
    pl_quantise_row(normed, size, &to, row);
}

/* Norm and rotate the heads of one row, and put its keys and values into the cache. */
static void place_row(pl_decoder *d, const pl_layer *layer, const pl_heads *shape, const pl_span *span, int row)
{
    const pl_model *model = d->model;
    int head_dim = model->head_dim, position = span->first_position + row - span->first_row;
    const float *cos = model->cos + (size_t)position * (head_dim / 2);
    const float *sin = model->sin + (size_t)position * (head_dim / 2);
    float *heads = d->heads + (size_t)row * qkv_size(model);
    float *keys = heads + model->num_heads * head_dim, *values = keys + model->num_kv_heads * head_dim;
    for (int head = 0; head < model->num_heads + model->num_kv_heads; head++) {
        float *at = heads + head * head_dim;
        const float *weight = head < model->num_heads ? layer->query_norm : layer->key_norm;
        if (weight != NULL)
            pl_rms_norm(at, weight, head_dim, model->rms_norm_eps, at);
        pl_rotate(at, cos, sin, head_dim);
    }
    for (int head = 0; head < model->num_kv_heads; head++)
        pl_cache_write(&layer->cache, shape, span, row, head, keys + head * head_dim, values + head * head_dim);
}

static pl_heads shape_of(const pl_model *model, const pl_layer *layer)
{
    return (pl_heads){model->num_heads, model->num_kv_heads, model->head_dim, layer->window};
}

static void place_tile(pl_decoder *d, const pl_layer *layer, int item)
{
    const attention_tile *tile = &d->tiles[item];
    pl_heads shape = shape_of(d->model, layer);
    for (int row = tile->first; row < tile->first + tile->rows; row++)
        place_row(d, layer, &shape, &d->step->spans[tile->span], row);
}

static void attend_tile(pl_decoder *d, int thread, const pl_layer *layer, int item)
{
    pl_heads shape = shape_of(d->model, layer);
    const attention_tile *tile = &d->tiles[d->num_tiles - 1 - item / shape.num_kv_heads]; /* the longest come last */
    pl_attend(&layer->cache, &shape, &d->step->spans[tile->span], tile->first, tile->rows, item % shape.num_kv_heads,
              d->heads, qkv_size(d->model), d->attended, attended_size(d->model), d->scratch + thread * d->scratch_bytes);
}

/* The products of a layer, of the head, or none. */
static pl_product product_of(pl_decoder *d, const pl_layer *layer, int kind)
{
    const pl_model *model = d->model;
    int rows = d->step->num_rows, hidden = model->hidden_size;
    switch (kind) {
    case QKV: return (pl_product){&layer->qkv, &d->of_hidden, rows, PL_STORE, d->heads, qkv_size(model)};
    case OUTPUT: return (pl_product){&layer->output, &d->of_attended, rows, PL_ADD, d->hidden, hidden};
    case GATE_UP:
        return (pl_product){&layer->gate_up, &d->of_hidden, rows, PL_SILU_MUL, d->activated, model->intermediate_size};
    case DOWN: return (pl_product){&layer->down, &d->of_inner, rows, PL_ADD, d->hidden, hidden};
    default:
        return (pl_product){&model->head, &d->of_hidden, d->step->num_logit_rows, PL_STORE, d->step->logits,
                            model->head.out};
    }
}

/* Phase 0 embeds, the layers follow with LAYER_PHASES each, then come the norm before the head and the head. */
static int kind_of(const pl_model *model, int phase)
{
    int in_layers = phase - 1, behind = in_layers - model->num_layers * LAYER_PHASES;
    if (in_layers < 0)
        return EMBED;
    return behind < 0 ? in_layers % LAYER_PHASES : LAST_NORM + behind;
}

static const pl_layer *layer_of(const pl_model *model, int phase) { return &model->layers[(phase - 1) / LAYER_PHASES]; }

static int count_items(void *argument, int phase)
{
    pl_decoder *d = argument;
    int kind = kind_of(d->model, phase), threads = pl_team_size(d->team);
    switch (kind) {
    case PLACE: return d->num_tiles;
    case ATTEND: return d->num_tiles * d->model->num_kv_heads;
    case LAST_NORM: return d->step->num_logit_rows;
    case QKV:
    case OUTPUT:
    case GATE_UP:
    case DOWN:
    case HEAD: {
        pl_product product = product_of(d, layer_of(d->model, phase), kind);
        return pl_product_items(&product, threads);
    }
    default: return d->step->num_rows;
    }
}

static void do_item(void *argument, int phase, int item, int thread)
{
    pl_decoder *d = argument;
    const pl_model *model = d->model;
    int kind = kind_of(model, phase);
    const pl_layer *layer = layer_of(model, phase);
    switch (kind) {
    case EMBED: embed(d, item); break;
    case NORM_BEFORE_ATTENTION:
    case NORM_BEFORE_MLP: norm_and_quantise(d, thread, item, d->of_hidden, item); break;
    case PLACE: place_tile(d, layer, item); break;
    case ATTEND: attend_tile(d, thread, layer, item); break;
    case QUANTISE_ATTENDED:
        pl_quantise_row(d->attended + (size_t)item * attended_size(model), attended_size(model), &d->of_attended, item);
        break;
    case QUANTISE_INNER:
        pl_quantise_row(d->activated + (size_t)item * model->intermediate_size, model->intermediate_size, &d->of_inner,
                        item);
        break;
    case LAST_NORM: norm_and_quantise(d, thread, d->step->logit_rows[item], d->of_hidden, item); break;
    default: {
        pl_product product = product_of(d, layer, kind);
        pl_product_item(&product, pl_team_size(d->team), item);
    }
    }
}

void pl_decoder_step(pl_decoder *d, const pl_step *step)
{
    d->step = step;
    plan_tiles(d);
    pl_team_run(d->team, 1 + d->model->num_layers * LAYER_PHASES + 2, count_items, do_item, d);
}
