/* optimizer.c - the update. */
#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

#include "core/memory.h"
#include "train/schedule.h"
#include "train/step_numbers.h"

struct csp_optimizer {
    csp_backend *be;
    const csp_model *model;
    const csp_ranks *ranks;
    csp_tensor gradients; /* all of them: they are neighbours */
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
static csp_tensor all_gradients(const csp_optimizer *o)
{
    float *first = o->tensors[0].grad.data, *end = first;
    int64_t count;

    for (int64_t i = 0; i < o->count; i++) {
        float *begins = o->tensors[i].grad.data;
        float *ends = begins + csp_tensor_count(&o->tensors[i].grad);

        first = begins < first ? begins : first;
        end = ends > end ? ends : end;
    }
    count = end - first;
    return csp_tensor_view(first, CSP_F32, 1, &count);
}

csp_status csp_optimizer_create(csp_backend *be, const csp_model *model, const csp_ranks *ranks,
                                csp_optimizer **out)
{
    csp_optimizer *o;
    csp_arena ruler = { 0 };
    csp_status status;

    CSP_TRY(csp_alloc_zero("optimizer", 1, sizeof(*o), &o));
    o->be = be;
    o->model = model;
    o->ranks = ranks;
    o->count = model->params->trained;
    CSP_TRY_GOTO(csp_alloc("optimizer", o->count, sizeof(*o->tensors), &o->tensors));
    CSP_TRY_GOTO(place_numbers(o, &ruler));
    CSP_TRY_GOTO(csp_step_numbers_open(be, ruler.peak, &o->numbers));
    CSP_TRY_GOTO(place_numbers(o, &o->numbers.device));
    csp_params_optim(model->params, o->tensors);
    o->gradients = all_gradients(o);
    *out = o;
    return CSP_OK;

fail:
    csp_optimizer_destroy(o);
    return status;
}

void csp_optimizer_destroy(csp_optimizer *o)
{
    if (o != NULL) {
        free(o->tensors);
        csp_step_numbers_close(&o->numbers);
        free(o);
    }
}

csp_status csp_optimizer_reset(csp_optimizer *o)
{
    for (int64_t i = 0; i < o->count; i++) {
        CSP_TRY(csp_backend_zero(o->be, &o->tensors[i].grad));
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
    CSP_TRY(csp_ranks_reduce(o->ranks, &o->gradients, CSP_COMM_SUM, "gradients"));
    CSP_TRY(csp_grad_squares(o->be, o->tensors, o->count, &o->squares));
    CSP_TRY(csp_adamw(o->be, o->tensors, o->count, &args));
    return csp_step_numbers_fetch(&o->numbers);
}

void csp_optimizer_read(csp_optimizer *o, csp_step_metrics *m)
{
    const double *squares = csp_step_numbers_at(&o->numbers, &o->squares);
    double total = 0.0;

    o->bad = NULL;
    for (int64_t i = o->count - 1; i >= 0; i--) {
        o->bad = isfinite(squares[i]) ? o->bad : trained_name(o->model->params, i);
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
