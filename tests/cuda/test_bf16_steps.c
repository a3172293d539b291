/*
 * test_bf16_steps.c - single bf16 steps of the CUDA path, each from the weights of a float32 run on
 * the CPU: hidden states, losses and gradients are compared with those of the CPU in float32 from
 * the same weights, which bf16 holds.
 *
 * Losses of a whole run say little about its steps where training is chaotic, as contrastive steps
 * of adapters are: a rounding decides which of two close logits is a maximum or whether one is
 * positive, and gradients jump. What has no such choices is smooth, and there a step's error is
 * that of its roundings: the stack of blocks under a given gradient, and the loss of next tokens.
 * The choices themselves are compared with those that one rounding of the weights makes.
 *
 * A rounding to bf16 moves a number by at most 2^-8 of itself, up or down alike, by about half of
 * that on average. Those of a path are a random walk, so n of them are taken for sqrt(n) 2^-8: what
 * they are below it leaves room for layers that magnify what comes in. That is the limit for steps
 * taken together: sums of squares over all of them, so that one whose gradient cancels counts for
 * little. Along the gradient itself errors are as often up as down, and K steps have sqrt(K) less
 * of them: a wrong factor is no random walk, and shows there.
 */
#include "train/tiny_phase.h"

#include "core/scalar.h"
#include "data/batch.h"
#include "ops/sparse_pool.h"

/* What each build of the emulator has time for. */
#if defined(__SANITIZE_THREAD__)
enum { STEPS = 1 };
#elif defined(__SANITIZE_ADDRESS__)
enum { STEPS = 2 };
#else
enum { STEPS = 8 };
#endif

/*
 * Roundings on the way to a hidden state: of a block the norms, q or k, their rotation, attention's
 * probabilities and output, two branches of which one is added to, gate or up, their product, and
 * the sums (13); and the last norm. To a gradient: again as many back, and the head's three.
 */
enum { FORWARD = 2 * 13 + 1, BACKWARD = 2 * FORWARD + 3 };

/*
 * Roundings of weights on such a path, if nothing else is rounded: of a block the norms, q or k, v,
 * o, gate or up, down (7); the embedding, the last norm, the head. The further logits are moved the
 * more choices fall otherwise, and a gradient's distance is the root of their number.
 */
enum { WEIGHTS = 2 * 7 + 3 };

static double walk(double roundings)
{
    return sqrt(roundings) * UNIT_BF16;
}

/* One vector against another, or many steps of them. */
typedef struct distance {
    double error, size; /* |got - want|^2, |want|^2 */
    double along;       /* (got - want) want        */
} distance;

static void add(distance *d, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double w = (double)want[i], error = (double)got[i] - w;

        d->error += error * error;
        d->size += w * w;
        d->along += error * w;
    }
}

static double relative(const distance *d)
{
    return sqrt(d->error / d->size);
}

/* Not a number passes nowhere. */
static void assert_within(const char *what, double value, double limit)
{
    if (!(value <= limit)) {
        print_error("%s: %.5f, at most %.5f\n", what, value, limit);
    }
    assert_true(value <= limit);
}

/* The run that leads, in float32, and what is compared from its weights. */
typedef struct pair {
    tiny lead, cpu, cuda;
    tiny_phase run, cpu_step, cuda_step;
} pair;

static void open_pair(pair *p, csp_variant variant, bool lora, bool adapt)
{
    const csp_storage bf16 = { .dtype = CSP_BF16 };

    tiny_open_on(&p->lead, "cpu", variant, lora);
    tiny_open_on(&p->cpu, "cpu", variant, lora);
    tiny_open_stored(&p->cuda, "cuda:0", variant, lora, bf16);
    tiny_phase_open(&p->run, &p->lead, false, 0.0);
    tiny_phase_open(&p->cpu_step, &p->cpu, adapt, 0.0); /* without the kink of a ReLU */
    tiny_phase_open(&p->cuda_step, &p->cuda, adapt, 0.0);
}

static void close_pair(pair *p)
{
    tiny_phase_close(&p->run);
    tiny_phase_close(&p->cpu_step);
    tiny_phase_close(&p->cuda_step);
    tiny_close(&p->lead);
    tiny_close(&p->cpu);
    tiny_close(&p->cuda);
}

static void round_to_bf16(float *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        values[i] = csp_bf16_to_f32(csp_f32_to_bf16(values[i]));
    }
}

/* Both sides get the weights of the run, rounded. */
static void take_weights(pair *p)
{
    tiny *const to[] = { &p->cpu, &p->cuda };

    for (int64_t i = 0; i < p->lead.model->params->count; i++) {
        csp_param *from = &p->lead.model->params->rows[i];
        const int64_t n = csp_tensor_count(&from->value);
        float *values = tiny_download(&p->lead, &from->value);

        round_to_bf16(values, n);
        for (int side = 0; side < 2; side++) {
            assert_ok(
                csp_param_upload(to[side]->be, &to[side]->model->params->rows[i], 0, n, values));
        }
        free(values);
    }
}

/* The run makes its step k. */
static void lead_on(pair *p, int64_t k)
{
    csp_step_metrics m;

    assert_ok(tiny_phase_step(&p->run, k, &m));
}

/* The loss and the gradients of step k, without an update. */
static float *step_gradients(tiny_phase *step, int64_t k, double *loss)
{
    csp_step_metrics m;

    assert_ok(tiny_phase_run(step, k, &m));
    assert_ok(tiny_phase_read(step, &m));
    *loss = m.loss;
    return tiny_gradients(step->t);
}

/* Gradients of all steps: together, and of each tensor. */
typedef struct gradients {
    distance all;
    distance *row; /* [params->count] */
} gradients;

static void add_gradients(gradients *g, const tiny *t, const float *got, const float *want)
{
    const csp_params *params = t->model->params;
    int64_t at = 0;

    for (int64_t i = 0; i < params->count; i++) {
        const int64_t n = params->rows[i].trained ? csp_tensor_count(&params->rows[i].value) : 0;

        add(&g->row[i], got + at, want + at, n);
        at += n;
    }
    add(&g->all, got, want, at);
}

/* Together within the walk of roundings; along themselves, that shortened by the steps. */
static void check_gradients(const char *what, const gradients *g, const tiny *t)
{
    const csp_params *params = t->model->params;
    const double limit = walk(BACKWARD);
    double steepest = 0.0;

    for (int64_t i = 0; i < params->count; i++) {
        if (params->rows[i].trained) {
            const double along = fabs(g->row[i].along / g->row[i].size);

            assert_within(params->rows[i].name, along, limit / sqrt(STEPS));
            steepest = along > steepest ? along : steepest;
        }
    }
    print_message("%s: gradients apart by %.4f, along themselves %.5f, one of them %.5f\n", what,
                  relative(&g->all), g->all.along / g->all.size, steepest);
    assert_within(what, relative(&g->all), limit);
    assert_within(what, fabs(g->all.along / g->all.size), limit / sqrt(STEPS));
}

static gradients new_gradients(const tiny *t)
{
    gradients g = { .row = calloc((size_t)t->model->params->count, sizeof(*g.row)) };

    assert_non_null(g.row);
    return g;
}

/* A batch of all documents on the device of a side, and the memory of a pass over it. */
typedef struct stack {
    csp_arena arena;
    csp_pack pack;
    csp_run *run;
} stack;

static void place(const tiny *t, csp_arena *arena, csp_dtype dtype, int64_t n, const void *host,
                  csp_tensor *out)
{
    assert_ok(csp_arena_tensor(arena, dtype, 1, &n, out));
    assert_ok(csp_backend_upload(t->be, host, out));
}

static stack open_stack(const tiny *t, const csp_batch *b)
{
    stack s = { .pack.longest = b->max_len };
    size_t bytes;

    assert_ok(csp_run_bytes(t->model->params, b->N, CSP_KEEP_ALL, &bytes));
    assert_ok(csp_backend_reserve(t->be, bytes + ((size_t)1 << 16), &s.arena));
    place(t, &s.arena, CSP_I32, b->N, b->tokens, &s.pack.token);
    place(t, &s.arena, CSP_I32, b->B + 1, b->seq_start, &s.pack.seq_start);
    place(t, &s.arena, CSP_I32, b->B, b->order, &s.pack.order);
    place(t, &s.arena, CSP_I64, b->N, b->row_key, &s.pack.row_key);
    assert_ok(csp_run_create(t->model->params, CSP_KEEP_ALL, &s.run));
    assert_ok(csp_run_place(s.run, b->N, &s.arena));
    return s;
}

static void close_stack(const tiny *t, stack *s)
{
    csp_run_destroy(s->run);
    csp_backend_release(t->be, &s->arena);
}

/* Hidden states of a batch, then its gradients from dh. The caller frees both. */
static void pass_over(tiny *t, const csp_batch *b, const csp_pass *pass, const float *dh, float **h,
                      float **gradient)
{
    stack s = open_stack(t, b);
    const int64_t n = csp_tensor_count(&s.run->h);
    char *stored = malloc((size_t)n * sizeof(float));

    assert_ok(csp_model_fwd(t->model, &s.pack, pass, s.run));
    *h = malloc((size_t)n * sizeof(**h));
    assert_true(stored != NULL && *h != NULL);
    assert_ok(csp_backend_download(t->be, &s.run->h, stored));
    for (int64_t i = 0; i < n; i++) {
        (*h)[i] = s.run->h.dtype == CSP_BF16 ? csp_bf16_to_f32(((uint16_t *)(void *)stored)[i])
                                             : ((float *)(void *)stored)[i];
    }
    assert_ok(csp_tensor_upload(t->be, &s.run->dh, 0, n, dh));
    assert_ok(csp_model_bwd(t->model, &s.pack, pass, s.run, NULL));
    *gradient = tiny_gradients(t);
    free(stored);
    close_stack(t, &s);
}

/* Normal numbers of bf16 in the rows that are pooled, 0 in the others. */
static float *random_dh(const csp_batch *b, int64_t D, int64_t k)
{
    const csp_rng rng = { 7, CSP_DRAW_TEST, (uint32_t)k, 0 };
    float *dh = calloc((size_t)(b->N * D), sizeof(*dh));

    assert_non_null(dh);
    for (int64_t i = 0; i < b->N * D; i++) {
        dh[i] = b->keep[i / D] != 0 ? csp_rng_normal(rng, (uint64_t)i) : 0.0f;
    }
    round_to_bf16(dh, b->N * D);
    return dh;
}

static void check_stack(const char *what, csp_variant variant, bool lora)
{
    distance states = { 0 };
    csp_batch b = { 0 };
    gradients g;
    pair p;

    open_pair(&p, variant, lora, false);
    g = new_gradients(&p.cpu);
    assert_ok(csp_batch_pack(&p.cpu.contract, &p.cpu.passages, 0, TINY_PASSAGES, NULL, 0, &b));
    for (int64_t k = 1; k <= STEPS; k++) {
        const csp_pass pass = tiny_phase_pass(&p.run, k);
        const int64_t D = p.cpu.model->params->config.D;
        float *dh = random_dh(&b, D, k), *h[2], *gradient[2];

        take_weights(&p);
        pass_over(&p.cpu, &b, &pass, dh, &h[0], &gradient[0]);
        pass_over(&p.cuda, &b, &pass, dh, &h[1], &gradient[1]);
        add(&states, h[1], h[0], b.N * D);
        add_gradients(&g, &p.cpu, gradient[1], gradient[0]);
        for (int side = 0; side < 2; side++) {
            free(h[side]);
            free(gradient[side]);
        }
        free(dh);
        lead_on(&p, k);
    }
    print_message("%s: hidden states apart by %.4f\n", what, relative(&states));
    assert_within(what, relative(&states), walk(FORWARD));
    check_gradients(what, &g, &p.cpu);
    free(g.row);
    csp_batch_clear(&b);
    close_pair(&p);
}

static void the_stack_of_blocks_is_within_roundings(void **state)
{
    (void)state;
    check_stack("blocks, echo, lora", CSP_VARIANT_ECHO, true);
    check_stack("blocks, bi, full", CSP_VARIANT_BI, false);
}

/* A whole step, with a loss that no choice goes into: without the term of saturated logits. */
static void check_next_tokens(const char *what, bool lora)
{
    double bias = 0.0;
    gradients g;
    pair p;

    open_pair(&p, CSP_VARIANT_CAUSAL, lora, true);
    g = new_gradients(&p.cpu);
    for (int64_t k = 1; k <= STEPS; k++) {
        double want_loss, loss;
        float *want, *got;

        take_weights(&p);
        want = step_gradients(&p.cpu_step, k, &want_loss);
        got = step_gradients(&p.cuda_step, k, &loss);
        assert_within("loss", fabs(loss - want_loss) / want_loss, walk(FORWARD));
        bias += (loss - want_loss) / want_loss / STEPS;
        add_gradients(&g, &p.cpu, got, want);
        free(want);
        free(got);
        lead_on(&p, k);
    }
    print_message("%s: losses apart by %+.5f on average\n", what, bias);
    assert_within(what, fabs(bias), walk(FORWARD) / sqrt(STEPS));
    check_gradients(what, &g, &p.cpu);
    free(g.row);
    close_pair(&p);
}

static void steps_of_adaptation_are_within_roundings(void **state)
{
    (void)state;
    check_next_tokens("adapt, lora", true);
}

/*
 * Whole steps with their choices, which the rounding of weights alone makes too; the head forward
 * by tiles or in one kernel.
 */
static void check_contrastive(const char *what, csp_variant variant, bool lora,
                              csp_pool_forward forward, int64_t steps)
{
    distance all = { 0 }, of_weights = { 0 };
    double bias = 0.0, ratio;
    pair p;

    open_pair(&p, variant, lora, false);
    if (csp_sparse_pool_choose_forward(p.cuda.be, forward) != CSP_OK) {
        close_pair(&p);
        skip();
    }
    for (int64_t k = 1; k <= steps; k++) {
        double of_run, want_loss, loss;
        float *unrounded, *want, *got;

        take_weights(&p);
        unrounded = step_gradients(&p.run, k, &of_run);
        want = step_gradients(&p.cpu_step, k, &want_loss);
        got = step_gradients(&p.cuda_step, k, &loss);
        assert_within("loss", fabs(loss - want_loss) / want_loss, walk(FORWARD));
        bias += (loss - want_loss) / want_loss / (double)steps;
        add(&all, got, want, p.cpu.count);
        add(&of_weights, unrounded, want, p.cpu.count);
        free(unrounded);
        free(want);
        free(got);
        lead_on(&p, k);
    }
    ratio = relative(&all) / relative(&of_weights);
    print_message("%s: losses apart by %+.5f on average, gradients by %.3f, where rounding the "
                  "weights moves them by %.3f\n",
                  what, bias, relative(&all), relative(&of_weights));
    assert_within(what, fabs(bias), walk(FORWARD) / sqrt((double)steps));
    /* Twice what is expected of them moves logits; few steps have too few choices to say. */
    assert_true(steps < 8 || ratio <= sqrt(2.0 * sqrt((double)FORWARD / WEIGHTS)));
    close_pair(&p);
}

static void choices_fall_otherwise_as_often_as_roundings_make_them(void **state)
{
    (void)state;
    check_contrastive("contrastive, echo, lora", CSP_VARIANT_ECHO, true, CSP_POOL_FORWARD_TILES,
                      STEPS);
}

/* Echo keeps half of the rows, which are copied together first. */
static void a_step_with_the_fused_head_is_within_roundings(void **state)
{
    (void)state;
    check_contrastive("contrastive, echo, lora, fused", CSP_VARIANT_ECHO, true,
                      CSP_POOL_FORWARD_FUSED, STEPS < 4 ? STEPS : 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stack_of_blocks_is_within_roundings),
        cmocka_unit_test(steps_of_adaptation_are_within_roundings),
        cmocka_unit_test(choices_fall_otherwise_as_often_as_roundings_make_them),
        cmocka_unit_test(a_step_with_the_fused_head_is_within_roundings),
    };

    return tiny_main_on_cuda(tests, sizeof(tests) / sizeof(tests[0]), NULL, NULL);
}
