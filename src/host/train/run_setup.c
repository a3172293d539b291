/* run_setup.c - opening a run: folder, resume point, model, data, memory and disk checks. */
#include "train/trainer_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "io/lines.h"
#include "model/model_path.h"
#include "model/precision.h"
#include "model/weights.h"
#include "ops/graph.h"
#include "train/memory_plan.h"

/* The contract that training stores with the model, from the settings and the model's ids. */
static csp_status make_contract(const csp_config *config, const csp_model_config *model,
                                csp_contract *out)
{
    const csp_model_settings *s = &config->model;
    csp_contract c;
    int32_t *ids = NULL;
    csp_status status;

    CSP_TRY(csp_contract_init(&c));
    c.variant = (csp_variant)s->variant;
    CSP_TRY_GOTO(csp_contract_set_text(&c.query_prefix, s->query_prefix));
    CSP_TRY_GOTO(csp_contract_set_text(&c.passage_prefix, s->passage_prefix));
    CSP_TRY_GOTO(csp_contract_set_text(&c.title_separator, s->title_separator));
    c.query_max_len = (int32_t)s->query_max_len;
    c.passage_max_len = (int32_t)s->passage_max_len;
    c.add_bos = s->add_bos;
    c.append_eos = s->append_eos;
    c.bos_id = (int32_t)model->bos_id;
    c.eos_id = model->eos_count > 0 ? (int32_t)model->eos_id[0] : -1;
    c.logit_scale = s->logit_scale;
    CSP_TRY_GOTO(csp_alloc("excluded ids", s->exclude_ids.count, sizeof(*ids), &ids));
    for (int64_t i = 0; i < s->exclude_ids.count; i++) {
        ids[i] = (int32_t)s->exclude_ids.values[i];
        if (ids[i] >= model->V) {
            status = CSP_FAIL(CSP_ERR_CONFIG, "model.exclude_ids: %d is not below vocab_size %lld",
                              (int)ids[i], (long long)model->V);
            goto fail;
        }
    }
    CSP_TRY_GOTO(csp_contract_set_exclude_ids(&c, ids, s->exclude_ids.count));
    c.pooling = (csp_pooling)s->pooling;
    c.top_k_query = (int32_t)s->top_k_query;
    c.top_k_passage = (int32_t)s->top_k_passage;
    c.quant_scale = s->quant_scale;
    CSP_TRY_GOTO(csp_contract_check(&c, "model settings"));
    free(ids);
    *out = c;
    return CSP_OK;

fail:
    free(ids);
    csp_contract_clear(&c);
    return status;
}

/* Says where a model was trained under another contract than this run's. */
static void compare_contract(const csp_run_state *run, const char *path, const csp_contract *there,
                             const csp_contract *here)
{
    char difference[256];

    if (csp_run_writes(run) && !csp_contract_equal(there, here, difference, sizeof(difference))) {
        csp_log(CSP_LOG_WARN, "train", "%s was trained under another contract than this run's: %s",
                path, difference);
    }
}

/* The same of a folder, which has none, or the standard one, where nothing was trained yet. */
static csp_status compare_folder_contract(const csp_run_state *run, const char *dir)
{
    csp_contract there = { 0 }, standard = { 0 };
    csp_status status;
    char *path = NULL;

    CSP_TRY_GOTO(csp_file_join(dir, "csplade.json", &path));
    if (csp_file_exists(path)) {
        CSP_TRY_GOTO(csp_contract_init(&standard));
        CSP_TRY_GOTO(csp_snapshot_contract(dir, &there));
        if (!csp_contract_equal(&there, &standard, NULL, 0)) {
            compare_contract(run, dir, &there, &run->opened.contract);
        }
    }

fail:
    free(path);
    csp_contract_clear(&there);
    csp_contract_clear(&standard);
    return status;
}

/* The model of model.path: a Hugging Face folder, with fresh adapters where lora is enabled. */
static csp_status open_folder(csp_run_state *run)
{
    const csp_config *config = run->config;
    csp_model_options m = { .dir = config->model.path,
                            .adapter = config->lora.enabled ? config->lora.init : NULL,
                            .train = config->lora.enabled ? CSP_TRAIN_LORA : CSP_TRAIN_FULL,
                            .storage = run->storage,
                            .machine = run->machine,
                            .seed = (uint64_t)config->run.seed };
    csp_model_config shape;
    char *path = NULL;
    csp_status status;

    if (run->options->base != NULL) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "%s is where a base model is said to be, but the run begins with the folder "
            "%s and not with a LoRA checkpoint",
            run->options->base, config->model.path);
    }
    CSP_TRY_GOTO(csp_model_path_config(config->model.path, &shape));
    CSP_TRY_GOTO(make_contract(config, &shape, &run->opened.contract));
    CSP_TRY_GOTO(compare_folder_contract(run, config->model.path));
    CSP_TRY_GOTO(csp_file_join(config->model.path, "tokenizer.json", &path));
    CSP_TRY_GOTO(csp_file_read(path, (int64_t)1 << 29, &run->opened.tokenizer,
                               &run->opened.tokenizer_bytes));
    CSP_TRY_GOTO(csp_lora_from_settings(&config->lora, &m.lora));
    m.max_len = csp_config_longest(config);
    if (m.lora.R > 0) {
        CSP_TRY_GOTO(csp_digest_create(&m.digest));
    }
    CSP_TRY_GOTO(csp_model_create(run->be, &m, &run->opened.model));
    CSP_TRY_GOTO(csp_strdup("run", config->model.path, &run->opened.base_path));
    if (m.lora.R > 0) {
        csp_digest_say(m.digest, run->opened.base_hash);
    }

fail:
    csp_digest_destroy(m.digest);
    free(path);
    return status;
}

/* Opens a checkpoint's model under the contract of the settings. file: it, open, or NULL. */
static csp_status open_snapshot(csp_run_state *run, const char *path, const csp_hdf5 *file)
{
    const csp_config *config = run->config;
    csp_open_options o = { .train = config->lora.enabled ? CSP_TRAIN_LORA : CSP_TRAIN_FULL,
                           .storage = run->storage,
                           .base = run->options->base,
                           .file = file,
                           .machine = run->machine,
                           .max_len = csp_config_longest(config),
                           .seed = (uint64_t)config->run.seed };
    csp_contract contract;
    csp_lora lora;

    CSP_TRY(csp_lora_from_settings(&config->lora, &lora));
    o.lora = config->lora.enabled ? &lora : NULL;
    CSP_TRY(csp_snapshot_open(run->be, path, &o, &run->opened));
    CSP_TRY(make_contract(config, &run->opened.model->params->config, &contract));
    compare_contract(run, path, &run->opened.contract, &contract);
    csp_contract_clear(&run->opened.contract);
    run->opened.contract = contract;
    return CSP_OK;
}

/* The start of a run that goes on with another run's model. */
static csp_status start_from_checkpoint(csp_run_state *run)
{
    csp_opened *o = &run->opened;
    char *found = NULL;

    if (run->config->lora.init != NULL) {
        return CSP_FAIL(
            CSP_ERR_CONFIG,
            "lora.init is %s, but model.path is a checkpoint: only a folder takes a PEFT "
            "adapter",
            run->config->lora.init);
    }
    CSP_TRY(open_snapshot(run, run->config->model.path, NULL));
    if (o->base_in_run) {
        /* That was relative to the other run's folder. */
        CSP_TRY(csp_strdup("run", o->base_found, &found));
        free(o->base_path);
        o->base_path = found;
        o->base_in_run = false;
    }
    return CSP_OK;
}

/* Whether model.path is a file: a checkpoint of another run. */
static bool starts_from_checkpoint(const csp_config *config)
{
    return csp_file_exists(config->model.path) && !csp_file_is_dir(config->model.path);
}

/*
 * Threads for a rank. A launcher may have bound each rank to cores of its own; ranks that may run
 * on the very same cores share them.
 */
static csp_status threads_of_rank(const csp_run_state *run, int *threads)
{
    const int cores = csp_machine_cores();
    const int64_t key = csp_machine_core_key();
    int64_t *all;
    int alike = 0, here;
    csp_status status;

    CSP_TRY(csp_alloc("run", run->ranks->size, sizeof(*all), &all));
    status = csp_ranks_gather_host(run->ranks, &key, all, sizeof(key), "the cores of ranks");
    for (int r = 0; r < run->ranks->size; r++) {
        alike += all[r] == key;
    }
    free(all);
    here = csp_comm_local_size(run->ranks->comm);
    alike = alike < here ? alike : here; /* machines have the same cores */
    *threads = cores / alike > 1 ? cores / alike : 1;
    return status;
}

/*
 * The number of threads of the checkpoint, unless the config names another; 0, for a share of the
 * machine, on another number of ranks, which form other sums anyway.
 */
static int thread_count(const csp_run_state *run)
{
    const int64_t asked = run->config->device.threads;
    const int before = run->resumed ? csp_sum_order_ranks(run->progress.sum_order) : 0;

    if (run->resumed && asked == 0) {
        return before == 0 || before == csp_ranks_size(run->ranks) ? (int)run->progress.threads : 0;
    }
    if (run->resumed && asked != run->progress.threads) {
        csp_log(CSP_LOG_WARN, "train",
                "device.threads was %lld before and is %lld now: the run goes on, but not to the "
                "same bits",
                (long long)run->progress.threads, (long long)asked);
    }
    return (int)asked;
}

/* The precision of the checkpoint, unless the config names one or the device has only the other. */
static csp_status choose_storage(csp_run_state *run)
{
    const char *before = run->progress.precision;
    csp_precision asked = (csp_precision)run->config->device.precision;
    const char *phase = run->config->run.phases.values[0];

    if (asked == CSP_PRECISION_AUTO && run->resumed &&
        (run->be->bf16 || strcmp(before, "bf16") != 0)) {
        asked = csp_precision_named(before);
    }
    CSP_TRY(csp_precision_choose(run->be, asked, &run->storage.dtype));
    run->storage.stochastic = strcmp(phase, "adapt") == 0
                                  ? run->config->adapt.optim.stochastic_rounding
                                  : run->config->contrastive.optim.stochastic_rounding;
    run->storage.seed = (uint64_t)run->config->run.seed;
    run->storage.sharing =
        csp_run_sharing(run->config, csp_ranks_rank(run->ranks), csp_ranks_size(run->ranks));
    CSP_TRY(csp_precision_base(run->be, &run->config->lora, &run->storage.fp8));
    if (run->storage.stochastic && run->storage.dtype == CSP_F32) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "optim.stochastic_rounding is of bf16 weights, and %s computes in fp32",
                        run->be->name);
    }
    if (run->resumed && strcmp(before, csp_precision_name(run->storage.dtype)) != 0) {
        csp_log(CSP_LOG_WARN, "train",
                "the precision was %s before and is %s now: the run goes on, but not to the same "
                "bits",
                before, csp_precision_name(run->storage.dtype));
    }
    snprintf(run->progress.precision, sizeof(run->progress.precision), "%s",
             csp_precision_name(run->storage.dtype));
    return CSP_OK;
}

/* Checkpoints of adapters say where their base is, in a text of UTF-8. */
static csp_status check_base_path(const csp_run_state *run)
{
    const char *path = run->opened.base_path;

    if (run->config->lora.enabled && !csp_utf8_is_valid(path, (int64_t)strlen(path), NULL)) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "%s: the path of a base model is recorded in every checkpoint, and this "
                        "one is not valid UTF-8: rename it",
                        path);
    }
    return CSP_OK;
}

/* What of the fused forward pass of the head only the device's precision and the model tell. */
static csp_status check_head_forward(const csp_run_state *run)
{
    const int64_t D = run->opened.model->params->config.D;

    if (run->config->device.head_forward != CSP_POOL_FORWARD_FUSED) {
        return CSP_OK;
    }
    if (run->storage.dtype != CSP_BF16) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "device.head_forward fused is of bf16, and this run computes in %s: take "
                        "auto or tiles",
                        csp_precision_name(run->storage.dtype));
    }
    if (D % 8 != 0) {
        return CSP_FAIL(CSP_ERR_CONFIG,
                        "device.head_forward fused is for models whose width is a multiple of 8, "
                        "this one's is %lld: take auto or tiles",
                        (long long)D);
    }
    return CSP_OK;
}

static csp_status check_disk(const csp_run_state *run)
{
    const csp_run_settings *s = &run->config->run;
    const int64_t one = csp_checkpoint_bytes(run->opened.model, run->opened.tokenizer_bytes);
    /* The ones that stay, the best, and the one being written; a merged base beside them. */
    const bool merge = run->config->lora.enabled &&
                       run->config->lora.between_phases == CSP_LORA_MERGE && s->phases.count > 1;
    int64_t needed = one * (s->save_total_limit + 2);
    int64_t left, elements;

    csp_params_elements(run->opened.model->params, &elements, NULL);
    needed += merge ? 4 * elements : 0;
    CSP_TRY(csp_file_free_bytes(s->output_dir, &left));
    if (left < needed) {
        return CSP_FAIL(CSP_ERR_IO,
                        "%s: %lld MB free, but checkpoints of %lld MB each need %lld MB "
                        "(run.save_total_limit %lld)",
                        s->output_dir, (long long)(left >> 20), (long long)(one >> 20),
                        (long long)(needed >> 20), (long long)s->save_total_limit);
    }
    return CSP_OK;
}

static csp_status check_vocabulary(const csp_run_state *run)
{
    const int64_t words = csp_tokenizer_vocab_size(run->tokenizer);
    const int64_t V = run->opened.model->params->config.V;

    if (words > V) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "%s: its tokenizer has ids up to %lld, the model's vocab_size is %lld",
                        run->config->model.path, (long long)words - 1, (long long)V);
    }
    return CSP_OK;
}

csp_status csp_run_memory(const csp_run_state *run, csp_memory *out)
{
    CSP_TRY(csp_backend_memory(run->be, out));
    /* A device belongs to one rank; the memory of a machine to all that run on it. */
    if (run->ranks != NULL && out->lazy && out->free < INT64_MAX) {
        out->free /= csp_comm_local_size(run->ranks->comm);
    }
    return CSP_OK;
}

/*
 * Refuses what cannot fit before the first step. rows: of a micro-batch where a phase does not set
 * them, planned once for the whole run, because they set the order of additions; as many on all
 * ranks, what fits on each, because a checkpoint has one number for all.
 */
static csp_status plan_memory(csp_run_state *run, int64_t *rows)
{
    const csp_text_list *phases = &run->config->run.phases;
    const int64_t before = run->resumed ? run->progress.micro_batch_tokens : 0;
    csp_memory memory;

    *rows = before > 0 ? before : CSP_PLANNED_ROWS;
    CSP_TRY(csp_run_memory(run, &memory));
    for (int64_t i = 0; i < phases->count; i++) {
        const csp_batch_settings *batch = strcmp(phases->values[i], "adapt") == 0
                                              ? &run->config->adapt.batch
                                              : &run->config->contrastive.batch;
        csp_phase_memory p;

        CSP_TRY(csp_phase_memory_plan(run->config, run->opened.model->params, phases->values[i],
                                      before, csp_ranks_size(run->ranks), &memory, &p));
        if (batch->micro_batch_tokens == 0 && before == 0 && p.rows < *rows) {
            *rows = p.rows;
        }
    }
    return csp_ranks_reduce_host(run->ranks, rows, CSP_I64, 1, CSP_COMM_MIN, "planned memory");
}

/* The progress of a run at its start; or whether the data is still that of the checkpoint. */
static csp_status settle_progress(csp_run_state *run)
{
    const char *set = run->options->collectives != NULL ? run->options->collectives : "";
    csp_progress *p = &run->progress;
    char sum_order[CSP_SUM_ORDER_BYTES];
    csp_data_identity data;

    CSP_TRY(plan_memory(run, &p->micro_batch_tokens));
    CSP_TRY(csp_sum_order_describe(run->config->contrastive.negative_blocks, run->ranks, run->be,
                                   set, sum_order));
    if (run->resumed && csp_run_writes(run)) {
        csp_sum_order_compare(p->sum_order, sum_order, strcmp(p->phase, "contrastive") == 0);
    }
    (void)snprintf(p->sum_order, sizeof(p->sum_order), "%s", sum_order);
    CSP_TRY(csp_train_data_identity(run->data, &data));
    if (run->resumed) {
        CSP_TRY(csp_data_identity_check(run->resume_path, run->config, &p->data, &data));
    } else {
        p->best = NAN;
    }
    p->data = data;
    snprintf(p->metric, sizeof(p->metric), "%s", run->config->run.metric_for_best);
    p->threads = run->be->threads;
    return CSP_OK;
}

/* The model: of the resume point, of another run's checkpoint, or of a folder. */
static csp_status open_model(csp_run_state *run)
{
    if (run->resumed) {
        CSP_TRY(open_snapshot(run, run->resume.path, run->resume.file));
        CSP_TRY(csp_checkpoint_read_state(&run->resume, run->ranks, run->opened.model,
                                          &run->remembered));
        csp_resume_point_clear(&run->resume); /* what it keeps in memory is wanted for steps */
        return CSP_OK;
    }
    return starts_from_checkpoint(run->config) ? start_from_checkpoint(run) : open_folder(run);
}

/* The run's folder is ours alone from here on; what a killed run left half-written goes. */
static csp_status take_folder(csp_run_state *run)
{
    const char *dir = run->config->run.output_dir;
    char *path = NULL;
    csp_status status;

    CSP_TRY(csp_file_make_dirs(dir));
    CSP_TRY_GOTO(csp_file_join(dir, "lock", &path));
    CSP_TRY_GOTO(csp_file_lock_take(path, &run->lock));
    free(path);
    path = NULL;
    csp_file_remove_leftovers(dir);
    CSP_TRY_GOTO(csp_file_join(dir, "checkpoints", &path));
    csp_file_remove_leftovers(path);
    csp_state_files_remove(path, NULL, NULL);

fail:
    free(path);
    return status;
}

/* Whether steps can be shared out, and all ranks were told the same. */
static csp_status join_ranks(csp_run_state *run)
{
    const csp_config *config = run->config;
    const int ranks = run->options->comm != NULL ? csp_comm_size(run->options->comm) : 1;
    char *text = NULL;
    csp_status status;

    if (ranks == 1) {
        return CSP_OK;
    }
    /* As far as it goes without a backend, which is opened when all have been told the same. */
    run->together = (csp_ranks) { .comm = run->options->comm,
                                  .rank = csp_comm_rank(run->options->comm),
                                  .size = ranks };
    run->ranks = &run->together;
    CSP_TRY(csp_config_dump(config, false, &text));
    status = csp_comm_agree(run->together.comm, text, "the config");
    free(text);
    CSP_TRY(status);
    return csp_config_check_ranks(config, ranks);
}

static csp_status open_backend(csp_run_state *run)
{
    const char *asked = run->config->device.name;
    int threads = thread_count(run);

    if (run->ranks == NULL) {
        return csp_backend_create(asked, threads, &run->be);
    }
    if (threads == 0) {
        CSP_TRY(threads_of_rank(run, &threads));
    }
    CSP_TRY(csp_ranks_backend(run->options->comm, asked, threads, &run->be));
    return csp_ranks_open(run->options->comm, run->be, &run->together);
}

csp_status csp_run_setup(csp_run_state *run)
{
    const csp_config *config = run->config;
    char where[512];

    run->started_s = csp_machine_seconds();
    CSP_TRY(csp_config_validate(config));
    CSP_TRY(join_ranks(run));
    if (!run->options->dry_run && csp_run_writes(run)) {
        CSP_TRY(take_folder(run));
    }
    CSP_TRY(csp_run_find_resume_point(run));
    CSP_TRY(open_backend(run));
    CSP_TRY(csp_run_join_groups(run));
    run->be->sync_every_op = config->device.sync_every_op;
    run->be->tune_products = config->device.tune_products;
    CSP_TRY(csp_graph_choose(run->be, (csp_graphs)config->device.graphs));
    CSP_TRY(csp_sparse_pool_choose(run->be, (csp_pool_way)config->device.head_backward));
    CSP_TRY(csp_sparse_pool_choose_forward(run->be, (csp_pool_forward)config->device.head_forward));
    CSP_TRY(choose_storage(run));
    CSP_TRY(open_model(run));
    CSP_TRY(check_base_path(run));
    CSP_TRY(check_head_forward(run));
    CSP_TRY(csp_run_join_tuning(run));
    (void)snprintf(where, sizeof(where), "%s: tokenizer.json",
                   run->resumed ? run->resume_path : config->model.path);
    CSP_TRY(csp_tokenizer_from_text(run->opened.tokenizer, run->opened.tokenizer_bytes, where,
                                    &run->tokenizer));
    CSP_TRY(check_vocabulary(run));
    CSP_TRY(csp_train_data_open(config, &run->opened.contract, run->tokenizer,
                                csp_ranks_rank(run->ranks), csp_ranks_size(run->ranks),
                                run->machine, &run->data));
    CSP_TRY(csp_dev_open(config, csp_train_data_corpus(run->data), run->machine, &run->dev));
    CSP_TRY(csp_optimizer_create(run->be, run->opened.model, run->ranks, &run->optimizer));
    CSP_TRY(settle_progress(run));
    CSP_TRY(csp_run_agree(run));
    if (csp_run_writes(run) && !run->options->dry_run) {
        CSP_TRY(check_disk(run));
    }
    return csp_run_prepare_to_save(run);
}

void csp_run_clear(csp_run_state *run)
{
    csp_saver_destroy(run->saver); /* first: it may still be reading what the others own */
    csp_metrics_log_close(run->log);
    csp_optimizer_destroy(run->optimizer);
    csp_dev_close(run->dev);
    csp_train_data_close(run->data);
    csp_tokenizer_close(run->tokenizer);
    csp_opened_clear(&run->opened);
    csp_ranks_close(&run->near);
    csp_ranks_close(&run->together);
    csp_backend_destroy(run->be);
    csp_file_lock_release(run->lock);
    csp_health_memory_clear(&run->remembered);
    csp_resume_point_clear(&run->resume);
    free(run->resume_path);
}
