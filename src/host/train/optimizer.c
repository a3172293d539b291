/* optimizer.c - sums over ranks, the update, and the exchange of what parts of it gave. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "train/schedule.h"
#include "train/step_numbers.h"

struct csp_optimizer {
    csp_backend *be;
    csp_model *model;
    const csp_ranks *ranks;
    csp_tensor gradients;      /* all of them: they are neighbours                        */
    const csp_bucket *buckets; /* of gradients, from the top of the network down          */
    csp_bucket whole;          /* the one of adapters, which are complete at the very end */
    int64_t bucket_count;
    int64_t begun;       /* buckets of this step whose sums have been started      */
    int64_t arriving;    /* the last whose values of the step before are not here; -1: none */
    csp_pending *sums;   /* (bucket_count)                                    */
    csp_pending *values; /* (bucket_count)                                    */
    int64_t *parts;      /* (ranks) elements of each rank's part of a bucket  */
    bool shared_out;
    csp_gradient_watch watch;
    csp_arrival arrival;
    csp_optim_tensor *tensors;
    int64_t count;
    csp_step_numbers numbers;
    csp_tensor squares; /* (count) f64 of the last step              */
    double lr;          /* of the last step                          */
    double max_norm;    /* of the last step; 0: nothing was clipped  */
    const char *bad; /* the first tensor whose gradient was not finite in the last step, or NULL */
};

static csp_status place_numbers(csp_optimizer *o, csp_arena *arena)
{
    return csp_arena_tensor(arena, CSP_F64, 1, &o->count, &o->squares);
}

/* From the first trained gradient to the end of the last, with what lies between them. */
static csp_tensor all_gradients(const csp_params *params)
{
    float *first = NULL, *end = NULL;
    int64_t count;

    for (int64_t i = 0; i < params->count; i++) {
        float *begins = params->rows[i].grad.data;
        float *ends = begins + (begins != NULL ? csp_tensor_count(&params->rows[i].grad) : 0);

        first = begins != NULL && (first == NULL || begins < first) ? begins : first;
        end = begins != NULL && (end == NULL || ends > end) ? ends : end;
    }
    count = end - first;
    return csp_tensor_view(first, CSP_F32, 1, &count);
}

static void find_buckets(csp_optimizer *o)
{
    const csp_params *params = o->model->params;

    o->gradients = all_gradients(params);
    if (params->bucket_count == 0) {
        o->whole = (csp_bucket) { .count = o->gradients.dim[0], .layer = -1 };
        o->buckets = &o->whole;
        o->bucket_count = 1;
        return;
    }
    for (int64_t i = 0; i < params->count; i++) {
        CSP_ASSERT(params->rows[i].grad.data == (float *)o->gradients.data + params->rows[i].flat);
    }
    o->gradients.dim[0] = params->flat_elements;
    o->buckets = params->buckets;
    o->bucket_count = params->bucket_count;
    o->shared_out = csp_params_sharded(params);
}

/* Elements first .. first+count-1 of a flat array that begins at data. */
static csp_tensor stretch(void *data, csp_dtype dtype, int64_t first, int64_t count)
{
    return csp_tensor_view((char *)data + (size_t)first * csp_dtype_bytes(dtype), dtype, 1, &count);
}

/* This rank's part of a bucket in the same. */
static csp_tensor own_part(const csp_optimizer *o, const csp_bucket *b, void *data, csp_dtype dtype)
{
    return stretch(data, dtype, b->first + b->part * csp_ranks_rank(o->ranks), b->part);
}

static void set_parts(csp_optimizer *o, const csp_bucket *b)
{
    for (int r = 0; r < o->ranks->size; r++) {
        o->parts[r] = b->part;
    }
}

/* Begins the sum of a bucket: over all of it, or where state is shared out of this rank's part. */
static csp_status begin_sum(csp_optimizer *o, int64_t bucket)
{
    const csp_bucket *b = &o->buckets[bucket];
    const csp_tensor all = stretch(o->gradients.data, CSP_F32, b->first, b->count);
    const csp_tensor own = own_part(o, b, o->gradients.data, CSP_F32);

    if (!o->shared_out) {
        return csp_ranks_reduce_start(o->ranks, &all, CSP_COMM_SUM, "gradients", &o->sums[bucket]);
    }
    set_parts(o, b);
    return csp_ranks_scatter_sum_start(o->ranks, &all, &own, o->parts, "gradients",
                                       &o->sums[bucket]);
}

/* Begins the sums of all buckets that are complete when gradients are down to this layer. */
static csp_status begin_down_to(void *context, int64_t layer)
{
    csp_optimizer *o = context;

    while (o->begun < o->bucket_count && o->buckets[o->begun].layer >= layer) {
        CSP_TRY(begin_sum(o, o->begun));
        o->begun++;
    }
    return CSP_OK;
}

/* Waits for the values of all buckets with anything of this layer, or below it. */
static csp_status await_up_to(void *context, int64_t layer)
{
    csp_optimizer *o = context;

    while (o->arriving >= 0 && o->buckets[o->arriving].layer <= layer) {
        CSP_TRY(csp_ranks_finish(o->ranks, &o->values[o->arriving]));
        o->arriving--;
    }
    if (o->arriving < 0) {
        o->model->arrival = NULL;
    }
    return CSP_OK;
}

csp_status csp_optimizer_create(csp_backend *be, csp_model *model, const csp_ranks *ranks,
                                csp_optimizer **out)
{
    const int size = csp_ranks_size(ranks);
    csp_optimizer *o;
    csp_arena ruler = { 0 };
    csp_status status;

    CSP_ASSERT(csp_params_shards(model->params) == 1 || csp_params_shards(model->params) == size);
    CSP_TRY(csp_alloc_zero("optimizer", 1, sizeof(*o), &o));
    o->be = be;
    o->model = model;
    o->ranks = ranks;
    o->count = model->params->trained;
    find_buckets(o);
    o->watch = (csp_gradient_watch) { .complete = begin_down_to, .context = o };
    o->arrival = (csp_arrival) { .await = await_up_to, .context = o };
    o->arriving = -1;
    CSP_TRY_GOTO(csp_alloc_zero("optimizer", o->bucket_count, sizeof(*o->sums), &o->sums));
    CSP_TRY_GOTO(csp_alloc_zero("optimizer", o->bucket_count, sizeof(*o->values), &o->values));
    CSP_TRY_GOTO(csp_alloc("optimizer", size, sizeof(*o->parts), &o->parts));
    CSP_TRY_GOTO(csp_alloc("optimizer", o->count, sizeof(*o->tensors), &o->tensors));
    CSP_TRY_GOTO(place_numbers(o, &ruler));
    CSP_TRY_GOTO(csp_step_numbers_open(be, ruler.peak, &o->numbers));
    CSP_TRY_GOTO(place_numbers(o, &o->numbers.device));
    csp_params_optim(model->params, o->tensors);
    *out = o;
    return CSP_OK;

fail:
    csp_optimizer_destroy(o);
    return status;
}

void csp_optimizer_destroy(csp_optimizer *o)
{
    if (o != NULL) {
        if (o->model->arrival == &o->arrival) {
            o->model->arrival = NULL;
        }
        free(o->sums);
        free(o->values);
        free(o->parts);
        free(o->tensors);
        csp_step_numbers_close(&o->numbers);
        free(o);
    }
}

const csp_gradient_watch *csp_optimizer_watch(const csp_optimizer *o)
{
    return csp_ranks_size(o->ranks) > 1 && o->bucket_count > 1 ? &o->watch : NULL;
}

csp_status csp_optimizer_sum(csp_optimizer *o)
{
    CSP_TRY(begin_down_to(o, -1));
    for (int64_t b = 0; b < o->bucket_count; b++) {
        CSP_TRY(csp_ranks_finish(o->ranks, &o->sums[b]));
    }
    return CSP_OK;
}

csp_status csp_optimizer_reset(csp_optimizer *o)
{
    CSP_TRY(csp_backend_zero(o->be, &o->gradients));
    for (int64_t i = 0; i < o->count; i++) {
        CSP_TRY(csp_backend_zero(o->be, &o->tensors[i].m));
        CSP_TRY(csp_backend_zero(o->be, &o->tensors[i].v));
    }
    return CSP_OK;
}

/* The name of the i-th trained row, in the order of csp_params_optim. */
static const char *trained_name(const csp_params *params, int64_t index)
{
    for (int64_t i = 0; i < params->count; i++) {
        if (params->rows[i].trained && index-- == 0) {
            return params->rows[i].name;
        }
    }
    return "unknown";
}

const char *csp_optimizer_bad(const csp_optimizer *o)
{
    return o->bad;
}

/*
 * Updates this rank's parts, bucket by bucket from the last one, and begins to give and get the new
 * values of each; then clears the gradients of the others' parts.
 */
static csp_status update_parts(csp_optimizer *o, csp_adamw_args *args)
{
    const csp_tensor *first = &o->model->params->embed->value; /* at the front of the flat array */

    o->arriving = o->bucket_count - 1;
    o->model->arrival = &o->arrival;
    for (int64_t i = o->bucket_count - 1; i >= 0; i--) {
        const csp_bucket *b = &o->buckets[i];
        const csp_tensor all = stretch(first->data, first->dtype, b->first, b->count);
        const csp_tensor own = own_part(o, b, first->data, first->dtype);

        args->tensor = b->row;
        CSP_TRY(csp_adamw(o->be, &o->tensors[b->row], b->rows, args));
        set_parts(o, b);
        CSP_TRY(
            csp_ranks_gather_start(o->ranks, &own, &all, o->parts, "parameters", &o->values[i]));
    }
    return csp_backend_zero(o->be, &o->gradients);
}

csp_status csp_optimizer_step(csp_optimizer *o, const csp_optim_settings *s, int64_t t, int64_t T,
                              const csp_tensor *faults)
{
    const csp_lr_kind kind = (csp_lr_kind)s->lr_scheduler_type;
    csp_adamw_args args = { .t = t,
                            .lr = csp_lr_at(kind, s->learning_rate, s->warmup_ratio, t - 1, T),
                            .beta1 = s->adam_beta1,
                            .beta2 = s->adam_beta2,
                            .eps = s->adam_epsilon,
                            .weight_decay = s->weight_decay,
                            .max_norm = s->max_grad_norm,
                            .stochastic = o->model->params->storage.stochastic,
                            .seed = o->model->params->storage.seed,
                            .squares = o->squares,
                            .faults = *faults };

    o->lr = args.lr;
    o->max_norm = args.max_norm;
    /* A rank without a text in this step has had no forward pass that waits for them. */
    CSP_TRY(csp_values_await(o->model, o->model->params->config.L));
    CSP_TRY(csp_optimizer_sum(o));
    o->begun = 0;
    CSP_TRY(csp_grad_squares(o->be, o->tensors, o->count, &o->squares));
    if (o->shared_out) {
        CSP_TRY(csp_ranks_reduce(o->ranks, &o->squares, CSP_COMM_SUM, "squares of gradients"));
    }
    CSP_TRY(o->shared_out ? update_parts(o, &args) : csp_adamw(o->be, o->tensors, o->count, &args));
    return csp_step_numbers_fetch(&o->numbers);
}

void csp_optimizer_read(csp_optimizer *o, csp_step_metrics *m)
{
    const double *squares = csp_step_numbers_at(&o->numbers, &o->squares);
    double total = 0.0;

    o->bad = NULL;
    for (int64_t i = o->count - 1; i >= 0; i--) {
        o->bad =
            csp_squares_fit(squares[i], o->max_norm) ? o->bad : trained_name(o->model->params, i);
    }
    m->lr = o->lr;
    m->skipped = o->bad != NULL ? 1.0 : 0.0;
    if (o->bad != NULL) {
        return;
    }
    for (int64_t i = 0; i < o->count; i++) {
        total += squares[i];
    }
    m->grad_norm = sqrt(total);
    m->clipped = csp_clip_factor(total, o->max_norm) < 1.0 ? 1.0 : 0.0;
}
