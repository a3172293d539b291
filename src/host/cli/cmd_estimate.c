/*
 * cmd_estimate.c - csplade estimate: what a training run would take, before anything is allocated.
 *
 * The numbers come from the code that will place the tensors, run on arenas without memory, and the
 * plan is the one that training makes (train/memory_plan).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/config_args.h"
#include "cli/option_rows.h"
#include "core/machine.h"
#include "core/number.h"
#include "model/model_path.h"
#include "model/precision.h"
#include "train/memory_plan.h"
#include "train/saver.h"

static const csp_option options[] = {
    { .name = "set", .kind = CSP_OPTION_LIST, .value = "KEY=VALUE", .help = "override a setting" },
    { .name = "model-config",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .help = "a config.json, where model.path is not on this machine" },
    { .name = "device",
      .kind = CSP_OPTION_TEXT,
      .value = "auto|cpu|cuda|cuda:N",
      .help = "the device whose free memory is planned for, in place of device.name" },
    { .name = "memory",
      .kind = CSP_OPTION_TEXT,
      .value = "SIZE",
      .help = "plan for a GPU with so much memory (80GB, 141GB, 24GiB); none is needed here" },
    { .name = "ranks",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "1",
      .min = 1,
      .max = 1e6,
      .help = "plan for one of N ranks, which has that memory to itself" },
    CSP_OPTION_ROW_FORM,
};

static const csp_config_option stand_for[] = { { "device", "device.name" } };

enum { PHASES = 2 };

typedef struct estimate {
    int ranks, shards; /* that share steps out, and that share the model's state out */
    int64_t parameters, trained;
    csp_storage storage;
    csp_model_memory model;
    csp_phase_memory phase[PHASES];
    int phases;
    int64_t checkpoint; /* bytes on disk       */
    csp_save_plan save; /* of host memory, on rank 0 */
    int64_t state_copy; /* of it, what each rank has */
    csp_memory memory;  /* free: of the device */
    bool elsewhere;     /* it is not the one of this machine */
    size_t least;
} estimate;

static csp_status read_shape(const csp_arguments *args, const csp_config *config,
                             csp_model_config *shape)
{
    if (csp_args_given(args, "model-config")) {
        return csp_model_config_read(csp_args_text(args, "model-config"), shape);
    }
    if (config->model.path == NULL) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "estimate: model.path is not set; --model-config FILE names "
                        "a config.json");
    }
    return csp_model_path_config(config->model.path, shape);
}

/* "80GB" = 80 x 10^9 bytes, "80GiB" = 80 x 2^30; MB and MiB too. */
static csp_status parse_size(const char *text, int64_t *out)
{
    static const struct {
        const char *unit;
        double bytes;
    } units[] = { { "GB", 1e9 }, { "GiB", 0x1p30 }, { "MB", 1e6 }, { "MiB", 0x1p20 } };
    const char *unit = text + strspn(text, "0123456789+-.eE");
    char value[32];
    double number = 0.0;

    (void)snprintf(value, sizeof(value), "%.*s",
                   (int)((size_t)(unit - text) < sizeof(value) ? unit - text : 0), text);
    for (int i = 0; i < CSP_COUNT(units); i++) {
        if (strcmp(unit, units[i].unit) == 0 && csp_parse_f64(value, &number) && number > 0.0 &&
            number * units[i].bytes < 0x1p62) {
            *out = (int64_t)(number * units[i].bytes);
            return CSP_OK;
        }
    }
    return CSP_FAIL(CSP_ERR_CONFIG, "--memory %s: a number with GB, GiB, MB or MiB is meant", text);
}

/* The device that is planned for: its memory, and the precision it would compute in. */
static csp_status ask_device(const csp_arguments *args, const csp_config *config, estimate *e)
{
    csp_backend named = { .name = "a GPU", .bf16 = true, .fp8 = true, .apart = true }, *be = NULL;
    csp_status status;

    if (csp_args_given(args, "memory")) {
        if (strcmp(config->device.name, "cpu") == 0) {
            return CSP_FAIL(CSP_ERR_CONFIG, "--memory is of a GPU, and device.name is cpu");
        }
        CSP_TRY(parse_size(csp_args_text(args, "memory"), &e->memory.free));
        e->memory.total = e->memory.free;
        e->elsewhere = true;
        CSP_TRY(csp_precision_base(&named, &config->lora, &e->storage.fp8));
        e->storage.apart = named.apart;
        return csp_precision_choose(&named, (csp_precision)config->device.precision,
                                    &e->storage.dtype);
    }
    CSP_TRY(csp_backend_create(config->device.name, 1, &be));
    e->storage.apart = be->apart;
    CSP_TRY_GOTO(csp_backend_memory(be, &e->memory));
    CSP_TRY_GOTO(csp_precision_base(be, &config->lora, &e->storage.fp8));
    status = csp_precision_choose(be, (csp_precision)config->device.precision, &e->storage.dtype);

fail:
    csp_backend_destroy(be);
    return status;
}

static csp_status make_params(const csp_config *config, const csp_model_config *shape,
                              csp_storage storage, csp_params **out)
{
    csp_lora lora;

    CSP_TRY(csp_lora_from_settings(&config->lora, &lora));
    return csp_params_create(shape, &lora, lora.R > 0 ? CSP_TRAIN_LORA : CSP_TRAIN_FULL, storage,
                             out);
}

static int64_t checkpoint_bytes(const csp_params *params)
{
    int64_t numbers = 0;

    for (int64_t i = 0; i < params->count; i++) {
        const csp_param *row = &params->rows[i];
        const int64_t n = csp_tensor_count(&row->value);

        numbers += csp_param_is_lora(row) == (params->lora.R > 0) ? n : 0;
        numbers += row->trained ? 2 * n : 0;
    }
    return 4 * numbers;
}

/*
 * Whether the host has memory for copies of checkpoints: this one, unless the plan is for a GPU
 * that is elsewhere.
 */
static csp_status plan_saves(const csp_config *config, const csp_params *params,
                             const csp_memory *left, estimate *e)
{
    const int64_t free = left->lazy     ? left->free
                         : e->elsewhere ? INT64_MAX
                                        : csp_machine_available_bytes();

    e->state_copy = csp_params_sharded(params) ? csp_state_copy_bytes(params) : 0;
    return csp_save_plan_make(config, params, left->lazy, free, &e->save);
}

/* Plans every phase of the run; the first refusal is returned when all numbers are there. */
static csp_status fill(const csp_config *config, const csp_params *params, estimate *e)
{
    csp_memory left = e->memory;
    csp_status refused = CSP_OK, saves;

    e->shards = csp_params_shards(params);
    csp_params_elements(params, &e->parameters, &e->trained);
    CSP_TRY(csp_model_memory_of(params, csp_config_longest(config), &e->model));
    e->checkpoint = checkpoint_bytes(params);
    left.free = left.free > (int64_t)e->model.all ? left.free - (int64_t)e->model.all : 0;
    e->least = e->model.all;
    saves = plan_saves(config, params, &left, e);
    for (int64_t i = 0; i < config->run.phases.count && i < PHASES; i++) {
        csp_phase_memory *p = &e->phase[e->phases++];
        const csp_status status = csp_phase_memory_plan(
            config, params, config->run.phases.values[i], 0, e->ranks, &left, p);
        size_t least;

        if (status != CSP_OK && status != CSP_ERR_MEMORY) {
            return status;
        }
        refused = refused == CSP_OK ? status : refused;
        least = e->model.all + p->least_micro_batch +
                (left.lazy ? 0 : p->sparse + p->evaluation + p->scratch);
        e->least = least > e->least ? least : e->least;
    }
    return refused != CSP_OK ? refused : saves; /* and its text is the last */
}

static double mib(size_t bytes)
{
    return (double)bytes / 1048576.0;
}

static void print_phase(const csp_phase_memory *p, bool lazy)
{
    printf("phase %s\n", p->phase);
    printf("  activations         %12.1f MiB  %lld token rows at once, keeping %s\n",
           mib(p->micro_batch), (long long)p->rows, csp_keep_name(p->keep));
    printf(
        "  of a whole step     %12.1f MiB  %.1f MiB of it may stay, the rest is computed again\n",
        mib(p->step), mib(p->budget));
    printf("  sparse rows         %12.1f MiB  if every term of every text were active%s\n",
           mib(p->sparse), lazy ? ", not counted" : "");
    printf("  evaluation          %12.1f MiB  while training%s\n", mib(p->evaluation),
           lazy ? ", not counted" : "");
    printf("  scratch of ops      %12.1f MiB  at most\n", mib(p->scratch));
}

static void print_text(const estimate *e)
{
    const csp_params_size *s = &e->model.params;
    char of_all[48] = "";

    if (e->shards > 1) {
        snprintf(of_all, sizeof(of_all), ", this rank's part of %d", e->shards);
    }
    if (e->ranks > 1) {
        printf("one of %d ranks\n", e->ranks);
    }
    printf("parameters            %12lld   trained %lld\n", (long long)e->parameters,
           (long long)e->trained);
    printf("weights               %12.1f MiB  %s%s\n", mib(s->values),
           csp_precision_name(e->storage.dtype),
           e->storage.fp8 ? ", the frozen matrices of blocks in 8 bits" : "");
    printf("master weights        %12.1f MiB  fp32, of what is trained in bf16%s\n",
           mib(s->masters), of_all);
    printf("gradients             %12.1f MiB\n", mib(s->gradients));
    printf("optimizer moments     %12.1f MiB%s%s\n", mib(s->moments),
           of_all[0] != '\0' ? "   " : "", of_all[0] != '\0' ? of_all + 2 : "");
    for (int i = 0; i < e->phases; i++) {
        print_phase(&e->phase[i], e->memory.lazy);
    }
    printf("least to run          %12.1f MiB\n", mib(e->least));
    printf("free                  %12.1f MiB\n", mib((size_t)e->memory.free));
    printf("one checkpoint        %12.1f MiB on disk\n", mib((size_t)e->checkpoint));
    printf("copy of a checkpoint  %12.1f MiB of host memory, %s\n",
           mib(e->save.beside ? (size_t)e->save.bytes : 0),
           e->save.beside ? "from which it is written while training goes on"
                          : "so training waits while one is written (run.async_save)");
    if (e->shards > 1 && e->save.beside) {
        printf("  on other ranks      %12.1f MiB  of their part of the state\n",
               mib((size_t)e->state_copy));
    }
}

static void print_json(const estimate *e)
{
    const csp_params_size *s = &e->model.params;

    printf("{\"ranks\":%d,\"state_shards\":%d,\"parameters\":%lld,\"trained\":%lld,\"precision\":"
           "\"%s\",\"base_precision\":\"%s\","
           "\"weights_bytes\":%zu,"
           "\"master_bytes\":%zu,\"gradient_bytes\":%zu,\"moment_bytes\":%zu,\"phases\":[",
           e->ranks, e->shards, (long long)e->parameters, (long long)e->trained,
           csp_precision_name(e->storage.dtype), e->storage.fp8 ? "fp8" : "same", s->values,
           s->masters, s->gradients, s->moments);
    for (int i = 0; i < e->phases; i++) {
        const csp_phase_memory *p = &e->phase[i];

        printf("%s{\"phase\":\"%s\",\"micro_batch_tokens\":%lld,\"keep\":\"%s\","
               "\"activation_bytes\":%zu,\"step_activation_bytes\":%zu,\"budget_bytes\":%zu,"
               "\"sparse_bytes\":%zu,\"evaluation_bytes\":%zu,\"scratch_bytes\":%zu}",
               i > 0 ? "," : "", p->phase, (long long)p->rows, csp_keep_name(p->keep),
               p->micro_batch, p->step, p->budget, p->sparse, p->evaluation, p->scratch);
    }
    printf("],\"least_bytes\":%zu,\"available_bytes\":%lld,\"checkpoint_bytes\":%lld,"
           "\"checkpoint_copy_bytes\":%lld,\"state_copy_bytes\":%lld}\n",
           e->least, (long long)e->memory.free, (long long)e->checkpoint,
           e->save.beside ? (long long)e->save.bytes : 0LL,
           e->save.beside ? (long long)e->state_copy : 0LL);
}

/* A model that alone does not fit is said first: no phase could help. */
static csp_status judge(const estimate *e)
{
    if ((int64_t)e->model.all <= e->memory.free) {
        return CSP_ERR_MEMORY;
    }
    return CSP_FAIL(CSP_ERR_MEMORY,
                    "this run needs at least %.0f MiB, %.0f MiB of them for the model and its "
                    "training state; %.0f MiB are free",
                    mib(e->least), mib(e->model.all), mib((size_t)e->memory.free));
}

static csp_status run(const csp_arguments *args)
{
    csp_config *config = NULL;
    csp_params *params = NULL;
    csp_model_config shape;
    estimate e = { 0 };
    csp_status status, fits;

    CSP_TRY(csp_config_from_args(args, 0, stand_for, CSP_COUNT(stand_for), &config));
    CSP_TRY_GOTO(read_shape(args, config, &shape));
    CSP_TRY_GOTO(ask_device(args, config, &e));
    e.storage.stochastic =
        e.storage.dtype != CSP_F32 && config->contrastive.optim.stochastic_rounding;
    e.ranks = (int)csp_args_i64(args, "ranks");
    CSP_TRY_GOTO(csp_config_check_ranks(config, e.ranks));
    e.storage.sharing = csp_run_sharing(config, 0, e.ranks);
    CSP_TRY_GOTO(make_params(config, &shape, e.storage, &params));
    fits = fill(config, params, &e);
    CSP_TRY_GOTO(fits == CSP_ERR_MEMORY ? CSP_OK : fits);
    if (strcmp(csp_args_text(args, "format"), "json") == 0) {
        print_json(&e);
    } else {
        print_text(&e);
    }
    status = fits == CSP_OK ? CSP_OK : judge(&e);

fail:
    csp_params_destroy(params);
    csp_config_free(config);
    return status;
}

const csp_command csp_cmd_estimate = {
    .name = "estimate",
    .summary = "memory and disk a training run would take, before anything is allocated",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "CONFIG [KEY=VALUE...]",
    .details = "csplade estimate configs/llama-3.1-8b.yaml --model-config config.json --memory "
               "80GB\n\nEnds with exit code 5 when the run does not fit.",
    .run = run,
};
