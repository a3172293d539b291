/*
 * params.c - builds the table of parameters from a configuration, in the order of the network.
 */
#include "model/params.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "model/buckets.h"
#include "ops/linear.h"

/* Outputs and inputs of a matrix. */
static void matrix_shape(const csp_model_config *c, csp_matrix matrix, int64_t dim[2])
{
    switch (matrix) {
    case CSP_MATRIX_Q:
        dim[0] = c->H * c->E;
        dim[1] = c->D;
        break;
    case CSP_MATRIX_K:
    case CSP_MATRIX_V:
        dim[0] = c->G * c->E;
        dim[1] = c->D;
        break;
    case CSP_MATRIX_O:
        dim[0] = c->D;
        dim[1] = c->H * c->E;
        break;
    case CSP_MATRIX_DOWN:
        dim[0] = c->D;
        dim[1] = c->F;
        break;
    default: /* gate, up */
        dim[0] = c->F;
        dim[1] = c->D;
        break;
    }
}

static const struct {
    csp_matrix first;
    int size;
} groups[CSP_GROUP_COUNT] = { [CSP_GROUP_QKV] = { CSP_MATRIX_Q, 3 },
                              [CSP_GROUP_O] = { CSP_MATRIX_O, 1 },
                              [CSP_GROUP_GATE_UP] = { CSP_MATRIX_GATE, 2 },
                              [CSP_GROUP_DOWN] = { CSP_MATRIX_DOWN, 1 } };

csp_matrix csp_group_first(csp_matrix_group group)
{
    return groups[group].first;
}

int csp_group_size(csp_matrix_group group)
{
    return groups[group].size;
}

csp_matrix_group csp_matrix_group_of(csp_matrix matrix)
{
    int group = 0;

    while ((int)matrix >= (int)groups[group].first + groups[group].size) {
        group++;
    }
    return (csp_matrix_group)group;
}

int64_t csp_params_tail(const csp_params *params, csp_matrix_group group)
{
    const uint32_t all = (1u << groups[group].size) - 1;
    const uint32_t targets = params->lora.targets >> groups[group].first & all;
    const int64_t ranks = params->lora.R * __builtin_popcount(targets);

    return !params->storage.apart || params->storage.fp8 || params->lora.R == 0
               ? 0
               : (ranks + CSP_LINEAR_TAIL - 1) / CSP_LINEAR_TAIL * CSP_LINEAR_TAIL;
}

static bool has_bias(const csp_model_config *c, csp_matrix matrix)
{
    return matrix == CSP_MATRIX_O ? c->o_bias : matrix < CSP_MATRIX_O && c->qkv_bias;
}

/* Appends a row; its name is format with what follows. */
static csp_param *add(csp_params *params, csp_param_kind kind, int32_t layer, csp_matrix matrix,
                      int ndim, const int64_t *dim, const char *format, ...) CSP_PRINTF(7, 8);

static csp_param *add(csp_params *params, csp_param_kind kind, int32_t layer, csp_matrix matrix,
                      int ndim, const int64_t *dim, const char *format, ...)
{
    csp_param *row = &params->rows[params->count++];
    const bool lora = kind == CSP_PARAM_LORA_A || kind == CSP_PARAM_LORA_B;
    const bool narrow = params->storage.fp8 && kind == CSP_PARAM_WEIGHT;
    va_list args;

    va_start(args, format);
    vsnprintf(row->name, sizeof(row->name), format, args);
    va_end(args);
    row->kind = kind;
    row->layer = layer;
    row->matrix = matrix;
    row->ndim = ndim;
    row->dim[0] = dim[0];
    row->dim[1] = ndim > 1 ? dim[1] : 1;
    row->trained = params->train == CSP_TRAIN_FULL || (params->train == CSP_TRAIN_LORA && lora);
    row->decay = ndim > 1;
    row->value = csp_tensor_view(NULL, narrow ? CSP_E4M3 : params->storage.dtype, ndim, dim);
    row->scale = narrow ? csp_tensor_view(NULL, CSP_F32, 1, dim) : csp_tensor_none();
    row->staged = csp_tensor_none();
    row->grad = row->trained ? csp_tensor_view(NULL, CSP_F32, ndim, dim) : csp_tensor_none();
    row->master = params->storage.dtype != CSP_F32 && !params->storage.stochastic
                      ? row->grad
                      : csp_tensor_none();
    row->m = row->grad;
    row->v = row->grad;
    row->own_count = row->trained ? row->dim[0] * row->dim[1] : 0;
    params->trained += row->trained ? 1 : 0;
    return row;
}

static void add_matrix(csp_params *params, int32_t n, csp_layer *layer, csp_matrix matrix)
{
    const csp_lora *lora = &params->lora;
    const char *part = matrix <= CSP_MATRIX_O ? "self_attn" : "mlp";
    const char *name = csp_matrix_name(matrix);
    int64_t dim[2];

    matrix_shape(&params->config, matrix, dim);
    layer->weight[matrix] = add(params, CSP_PARAM_WEIGHT, n, matrix, 2, dim,
                                "model.layers.%d.%s.%s.weight", n, part, name);
    if (has_bias(&params->config, matrix)) {
        layer->bias[matrix] = add(params, CSP_PARAM_BIAS, n, matrix, 1, dim,
                                  "model.layers.%d.%s.%s.bias", n, part, name);
    }
    if (lora->R > 0 && (lora->targets >> matrix & 1u) != 0) {
        layer->lora_a[matrix] =
            add(params, CSP_PARAM_LORA_A, n, matrix, 2, (int64_t[]) { lora->R, dim[1] },
                "base_model.model.model.layers.%d.%s.%s.lora_A.weight", n, part, name);
        layer->lora_b[matrix] =
            add(params, CSP_PARAM_LORA_B, n, matrix, 2, (int64_t[]) { dim[0], lora->R },
                "base_model.model.model.layers.%d.%s.%s.lora_B.weight", n, part, name);
    }
}

static void add_layer(csp_params *params, int32_t n, csp_layer *layer)
{
    const csp_model_config *c = &params->config;
    const csp_matrix none = CSP_MATRIX_COUNT;

    layer->attn_norm = add(params, CSP_PARAM_ATTN_NORM, n, none, 1, &c->D,
                           "model.layers.%d.input_layernorm.weight", n);
    for (int m = CSP_MATRIX_Q; m <= CSP_MATRIX_O; m++) {
        add_matrix(params, n, layer, (csp_matrix)m);
    }
    if (c->qk_norm) {
        layer->q_norm = add(params, CSP_PARAM_Q_NORM, n, none, 1, &c->E,
                            "model.layers.%d.self_attn.q_norm.weight", n);
        layer->k_norm = add(params, CSP_PARAM_K_NORM, n, none, 1, &c->E,
                            "model.layers.%d.self_attn.k_norm.weight", n);
    }
    layer->mlp_norm = add(params, CSP_PARAM_MLP_NORM, n, none, 1, &c->D,
                          "model.layers.%d.post_attention_layernorm.weight", n);
    for (int m = CSP_MATRIX_GATE; m <= CSP_MATRIX_DOWN; m++) {
        add_matrix(params, n, layer, (csp_matrix)m);
    }
}

/* Whether moments and masters are to be shared out, and what of each row this rank has then. */
static csp_status share_out(csp_params *params)
{
    csp_sharing *s = &params->storage.sharing;
    int64_t trained;

    csp_params_elements(params, NULL, &trained);
    if (params->train != CSP_TRAIN_FULL ||
        csp_params_state_bytes(params) * trained < s->least_bytes) {
        s->ranks = 1;
    }
    if (params->train != CSP_TRAIN_FULL) {
        return CSP_OK;
    }
    CSP_TRY(csp_params_cut(params));
    for (int64_t i = 0; i < params->count && csp_params_sharded(params); i++) {
        csp_param *row = &params->rows[i];
        const csp_tensor own = csp_tensor_view(NULL, CSP_F32, 1, &row->own_count);

        row->master = row->master.ndim > 0 ? own : row->master;
        row->m = row->v = own;
        row->shared_out = true;
    }
    return CSP_OK;
}

/* What products of 8-bit floats ask for, which read 16 of them at once. */
static csp_status check_fp8(const csp_model_config *config, csp_train_mode train)
{
    if (train != CSP_TRAIN_LORA) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "a base in 8 bits is for training adapters only");
    }
    for (int m = 0; m < CSP_MATRIX_COUNT; m++) {
        int64_t dim[2];

        matrix_shape(config, (csp_matrix)m, dim);
        if (dim[0] % 16 != 0 || dim[1] % 16 != 0 || dim[1] > CSP_PARAM_STAGED) {
            return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                            "lora.base_precision fp8: %s of this model is (%lld,%lld), and 8-bit "
                            "matrices must be whole multiples of 16, of at most %d inputs",
                            csp_matrix_name((csp_matrix)m), (long long)dim[0], (long long)dim[1],
                            CSP_PARAM_STAGED);
        }
    }
    return CSP_OK;
}

csp_status csp_params_create(const csp_model_config *config, const csp_lora *lora,
                             csp_train_mode train, csp_storage storage, csp_params **out)
{
    /* Norms, q and k norm, and weight, bias, A, B of each matrix. */
    const int64_t rows_of_layer = 4 + 4 * CSP_MATRIX_COUNT;
    const int64_t shape[] = { config->V, config->D };
    const csp_matrix none = CSP_MATRIX_COUNT;
    csp_params *params = NULL;
    csp_status status;

    if ((train == CSP_TRAIN_LORA) != (lora->R > 0) && train != CSP_TRAIN_NONE) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        train == CSP_TRAIN_LORA
                            ? "training adapters needs a rank above 0"
                            : "full training takes no adapters: merge them first");
    }
    if (lora->R > 0) {
        CSP_TRY(csp_lora_check(lora, "adapter"));
    }
    if (storage.fp8) {
        CSP_TRY(check_fp8(config, train));
    }
    CSP_TRY_GOTO(csp_alloc_zero("parameter table", 1, sizeof(*params), &params));
    params->config = *config;
    params->lora = *lora;
    params->train = train;
    params->storage = storage;
    CSP_TRY_GOTO(csp_alloc_zero("parameter table", config->L * rows_of_layer + 3,
                                sizeof(*params->rows), &params->rows));
    CSP_TRY_GOTO(
        csp_alloc_zero("parameter table", config->L, sizeof(*params->layers), &params->layers));
    params->embed =
        add(params, CSP_PARAM_EMBED, -1, none, 2, shape, "%s", "model.embed_tokens.weight");
    for (int64_t l = 0; l < config->L; l++) {
        add_layer(params, (int32_t)l, &params->layers[l]);
    }
    params->final_norm =
        add(params, CSP_PARAM_FINAL_NORM, -1, none, 1, &config->D, "%s", "model.norm.weight");
    params->head = config->tied
                       ? params->embed
                       : add(params, CSP_PARAM_HEAD, -1, none, 2, shape, "%s", "lm_head.weight");
    CSP_TRY_GOTO(share_out(params));
    *out = params;
    return CSP_OK;

fail:
    csp_params_destroy(params);
    return status;
}

void csp_params_destroy(csp_params *params)
{
    if (params != NULL) {
        free(params->rows);
        free(params->layers);
        free(params->buckets);
        free(params);
    }
}

/* The memory of a row for one purpose; nothing where it has none. */
static csp_status place_row(csp_param *row, size_t purpose, bool measure, csp_arena *keep)
{
    csp_tensor *t = (csp_tensor *)(void *)((char *)row + purpose), placed;

    if (t->ndim > 0) {
        CSP_TRY(csp_arena_tensor(keep, t->dtype, t->ndim, t->dim, &placed));
        *t = measure ? *t : placed;
    }
    return CSP_OK;
}

/*
 * The values of a group's weights with their tails, T wide, in one matrix:
 *
 *     [ W  s B ]    O rows of all parts
 *     [ A      ]    T rows
 */
static csp_status place_with_tails(csp_params *params, csp_layer *layer, csp_matrix_group group,
                                   bool measure, csp_arena *keep)
{
    csp_param **weight = &layer->weight[groups[group].first];
    const int64_t T = csp_params_tail(params, group), I = weight[0]->dim[1];
    int64_t O = 0;
    csp_tensor all, rows;

    for (int i = 0; i < groups[group].size; i++) {
        O += weight[i]->dim[0];
    }
    CSP_TRY(csp_arena_tensor(keep, params->storage.dtype, 2, (int64_t[]) { O + T, I + T }, &all));
    if (measure) {
        return CSP_OK;
    }
    for (int64_t i = 0, first = 0; i < groups[group].size; first += weight[i++]->dim[0]) {
        rows = csp_tensor_rows(&all, first, weight[i]->dim[0]);
        weight[i]->value = csp_tensor_columns(&rows, 0, I);
    }
    rows = csp_tensor_rows(&all, 0, O);
    layer->w_tail[group] = csp_tensor_columns(&rows, I, T);
    rows = csp_tensor_rows(&all, O, T);
    layer->a_tail[group] = csp_tensor_columns(&rows, 0, I);
    return CSP_OK;
}

/* The same purpose of a group's weights in e4m3, or of their scales: below one another. */
static csp_status place_stacked(csp_param **weight, int count, size_t purpose, bool measure,
                                csp_arena *keep)
{
    csp_tensor all = *(const csp_tensor *)(const void *)((char *)weight[0] + purpose);

    all.dim[0] = 0;
    for (int i = 0; i < count; i++) {
        all.dim[0] += weight[i]->dim[0];
    }
    CSP_TRY(csp_arena_tensor(keep, all.dtype, all.ndim, all.dim, &all));
    for (int64_t i = 0, first = 0; i < count && !measure; first += weight[i++]->dim[0]) {
        csp_tensor *t = (csp_tensor *)(void *)((char *)weight[i] + purpose);

        *t = csp_tensor_rows(&all, first, weight[i]->dim[0]);
    }
    return CSP_OK;
}

/* The rows of one kind of a group, where row is the first of them. */
static csp_status place_group(csp_params *params, csp_param *row, size_t purpose, bool measure,
                              csp_arena *keep)
{
    csp_layer *layer = &params->layers[row->layer];
    csp_param **rows = row->kind == CSP_PARAM_WEIGHT ? layer->weight : layer->lora_a;
    const csp_matrix_group group = csp_matrix_group_of(row->matrix);
    const int first = (int)groups[group].first, end = first + groups[group].size;
    int m = first;

    while (rows[m] == NULL) {
        m++;
    }
    if (row != rows[m]) {
        return CSP_OK; /* placed with the first one */
    }
    if (purpose == offsetof(csp_param, value) && row->kind == CSP_PARAM_WEIGHT &&
        csp_params_tail(params, group) > 0) {
        return place_with_tails(params, layer, group, measure, keep);
    }
    if (row->scale.ndim > 0 &&
        (purpose == offsetof(csp_param, value) || purpose == offsetof(csp_param, scale))) {
        return place_stacked(&rows[first], groups[group].size, purpose, measure, keep);
    }
    for (; m < end; m++) {
        if (rows[m] != NULL) {
            CSP_TRY(place_row(rows[m], purpose, measure, keep));
        }
    }
    return CSP_OK;
}

/*
 * One purpose of all rows where state is shared out: values and gradients whole, each row at its
 * element of the flat array, of the others what is this rank's.
 */
static csp_status place_shared_out(csp_params *params, size_t purpose, bool measure,
                                   csp_arena *keep)
{
    const bool whole =
        purpose == offsetof(csp_param, value) || purpose == offsetof(csp_param, grad);
    const int64_t count = whole ? params->flat_elements : params->own_elements;
    const csp_tensor *like = (const csp_tensor *)(const void *)((char *)params->rows + purpose);
    const size_t element = csp_dtype_bytes(like->dtype);
    csp_tensor all;

    if (like->ndim == 0) {
        return CSP_OK;
    }
    CSP_TRY(csp_arena_tensor(keep, like->dtype, 1, &count, &all));
    for (int64_t i = 0; i < params->count && !measure; i++) {
        csp_param *row = &params->rows[i];
        csp_tensor *t = (csp_tensor *)(void *)((char *)row + purpose);

        t->data = (char *)all.data + (size_t)(whole ? row->flat : row->state) * element;
    }
    return CSP_OK;
}

/* One of the purposes that rows have memory for, from an arena. */
static csp_status place_purpose(csp_params *params, size_t purpose, bool measure, csp_arena *keep)
{
    if (csp_params_sharded(params)) {
        return place_shared_out(params, purpose, measure, keep);
    }
    for (int64_t i = 0; i < params->count; i++) {
        csp_param *row = &params->rows[i];

        if (row->kind == CSP_PARAM_WEIGHT || row->kind == CSP_PARAM_LORA_A) {
            CSP_TRY(place_group(params, row, purpose, measure, keep));
        } else {
            CSP_TRY(place_row(row, purpose, measure, keep));
        }
    }
    return CSP_OK;
}

static csp_status place_staged(csp_params *params, csp_arena *keep)
{
    const int64_t count = CSP_PARAM_STAGED;
    csp_tensor staged;

    if (!params->storage.fp8) {
        return CSP_OK;
    }
    CSP_TRY(csp_arena_tensor(keep, CSP_F32, 1, &count, &staged));
    for (int64_t i = 0; i < params->count; i++) {
        if (params->rows[i].scale.ndim > 0) {
            params->rows[i].staged = staged;
        }
    }
    return CSP_OK;
}

/* By purpose, not by row: a checkpoint or a sum over ranks walks one purpose at a time. */
csp_status csp_params_place(csp_params *params, csp_arena *keep)
{
    CSP_TRY(place_purpose(params, offsetof(csp_param, value), false, keep));
    CSP_TRY(place_purpose(params, offsetof(csp_param, scale), false, keep));
    CSP_TRY(place_staged(params, keep));
    CSP_TRY(place_purpose(params, offsetof(csp_param, master), false, keep));
    CSP_TRY(place_purpose(params, offsetof(csp_param, grad), false, keep));
    CSP_TRY(place_purpose(params, offsetof(csp_param, m), false, keep));
    return place_purpose(params, offsetof(csp_param, v), false, keep);
}

static csp_status purpose_bytes(const csp_params *params, size_t purpose, size_t *bytes)
{
    csp_arena ruler = { 0 };

    /* Measuring changes nothing. */
    CSP_TRY(place_purpose((csp_params *)(uintptr_t)params, purpose, true, &ruler));
    *bytes = ruler.peak;
    return CSP_OK;
}

csp_status csp_params_bytes(const csp_params *params, csp_params_size *out)
{
    csp_params_size s;
    size_t scales;

    CSP_TRY(purpose_bytes(params, offsetof(csp_param, value), &s.values));
    CSP_TRY(purpose_bytes(params, offsetof(csp_param, scale), &scales));
    s.values += scales + (params->storage.fp8 ? CSP_PARAM_STAGED * sizeof(float) : 0);
    CSP_TRY(purpose_bytes(params, offsetof(csp_param, master), &s.masters));
    CSP_TRY(purpose_bytes(params, offsetof(csp_param, grad), &s.gradients));
    CSP_TRY(purpose_bytes(params, offsetof(csp_param, m), &s.moments));
    s.moments *= 2;
    *out = s;
    return CSP_OK;
}

void csp_params_elements(const csp_params *params, int64_t *all, int64_t *trained)
{
    int64_t sum = 0, of_trained = 0;

    for (int64_t i = 0; i < params->count; i++) {
        const int64_t n = params->rows[i].dim[0] * params->rows[i].dim[1];

        sum += n;
        of_trained += params->rows[i].trained ? n : 0;
    }
    if (all != NULL) {
        *all = sum;
    }
    if (trained != NULL) {
        *trained = of_trained;
    }
}

csp_param *csp_params_find(const csp_params *params, const char *name)
{
    for (int64_t i = 0; i < params->count; i++) {
        if (strcmp(params->rows[i].name, name) == 0) {
            return &params->rows[i];
        }
    }
    return NULL;
}

/* This rank's elements of a row's value or gradient. */
static csp_tensor own_part(const csp_params *params, const csp_param *row, const csp_tensor *t)
{
    return csp_params_sharded(params)
               ? csp_tensor_view((char *)t->data +
                                     (size_t)row->own_first * csp_dtype_bytes(t->dtype),
                                 t->dtype, 1, &row->own_count)
               : *t;
}

void csp_params_optim(const csp_params *params, csp_optim_tensor *tensors)
{
    int64_t n = 0;

    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];

        if (row->trained) {
            tensors[n++] = (csp_optim_tensor) { .value = own_part(params, row, &row->value),
                                                .grad = own_part(params, row, &row->grad),
                                                .m = row->m,
                                                .v = row->v,
                                                .master = row->master,
                                                .first = row->own_first,
                                                .decay = row->decay };
        }
    }
}
