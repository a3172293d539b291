/* run_save.c - checkpoints, evaluations, and what happens to an adapter between phases. */
#include "train/trainer_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "model/weights.h"

/* What this rank may take of the host's memory for copies of checkpoints. */
static csp_status memory_for_copies(const csp_run_state *run, int64_t *free)
{
    csp_memory memory = { .free = csp_machine_available_bytes() };

    if (run->be->host_memory) {
        CSP_TRY(csp_run_memory(run, &memory));
    } else if (csp_params_sharded(run->opened.model->params) && memory.free < INT64_MAX) {
        memory.free /= csp_comm_local_size(run->ranks->comm); /* each has a copy of its state */
    }
    *free = memory.free;
    return CSP_OK;
}

static void say_plan(const csp_run_state *run, const csp_save_plan *plan)
{
    const bool shared = csp_params_sharded(run->opened.model->params);
    const double mib = 1048576.0;
    char whose[32] = "";

    if (shared) {
        snprintf(whose, sizeof(whose), " on rank %d", plan->rank);
    }
    if (plan->beside) {
        csp_log(CSP_LOG_INFO, "train",
                "checkpoints are written beside training, from a copy of %.1f MiB%s",
                (double)plan->bytes / mib, whose);
    } else if (run->config->run.async_save != CSP_ASYNC_SAVE_OFF) {
        csp_log(CSP_LOG_WARN, "train",
                "training waits for checkpoints to be written: a copy would take %.1f MiB of host "
                "memory%s, more than the %.1f MiB that may be used for it (run.async_save)",
                (double)plan->bytes / mib, whose, (double)plan->most / mib);
    }
}

csp_status csp_run_prepare_to_save(csp_run_state *run)
{
    const csp_params *params = run->opened.model->params;
    const bool shared = csp_params_sharded(params), writes = shared || csp_run_writes(run);
    csp_save_plan plan = { 0 };
    int64_t free;

    if (writes) {
        CSP_TRY(memory_for_copies(run, &free));
        CSP_TRY(csp_save_plan_make(run->config, params, run->be->host_memory, free, &plan));
        CSP_TRY(csp_save_plan_agree(shared ? run->ranks : NULL, &plan));
    }
    if (csp_run_writes(run)) {
        say_plan(run, &plan);
    }
    if (run->options->dry_run) {
        return CSP_OK;
    }
    CSP_TRY(writes ? csp_checkpoint_try_folder(run->config->run.output_dir) : CSP_OK);
    return csp_saver_create(run->opened.model, run->ranks, &plan, &run->saver);
}

csp_status csp_run_save(csp_run_state *run)
{
    const csp_snapshot snapshot = { .model = run->opened.model,
                                    .contract = &run->opened.contract,
                                    .tokenizer = run->opened.tokenizer,
                                    .tokenizer_bytes = run->opened.tokenizer_bytes,
                                    .base_path = run->opened.base_path,
                                    .base_in_run = run->opened.base_in_run,
                                    .base_hash = run->opened.base_hash };

    CSP_TRY(csp_values_await(run->opened.model, run->opened.model->params->config.L));
    return csp_saver_save(run->saver, run->config->run.output_dir, &snapshot, run->config,
                          &run->progress, run->health);
}

csp_status csp_run_evaluate(csp_run_state *run)
{
    const char *best = run->config->run.metric_for_best;
    csp_progress *p = &run->progress;
    double values[CSP_DEV_VALUES];

    CSP_TRY(csp_dev_run(run->dev, run->ranks, run->be, run->opened.model, &run->opened.contract,
                        run->tokenizer, values));
    CSP_TRY(csp_run_agree_on_tuning(run));
    if (csp_run_writes(run)) {
        CSP_TRY(csp_metrics_log_eval(run->log, p->phase, p->step, csp_dev_names, values,
                                     CSP_DEV_VALUES));
    }
    csp_log(CSP_LOG_INFO, "eval",
            "%s step %lld  nDCG@10 %.4f  RR@10 %.4f  R@100 %.4f  active_q %.1f  active_d %.1f  "
            "(%lld queries, %lld documents)",
            p->phase, (long long)p->step, values[0], values[1], values[2], values[4], values[5],
            (long long)csp_dev_queries(run->dev), (long long)csp_dev_documents(run->dev));
    for (int i = 0; i < CSP_DEV_VALUES; i++) {
        if (strcmp(csp_dev_names[i], best) == 0 && (isnan(p->best) || values[i] > p->best)) {
            p->best = values[i];
            p->best_step = p->step;
            memcpy(p->best_phase, p->phase, sizeof(p->best_phase));
        }
    }
    return CSP_OK;
}

/* One more file of the merged model's folder. */
static csp_status write_beside(const char *dir, const char *name, const char *text, int64_t bytes)
{
    char *path = NULL;
    csp_status status;

    CSP_TRY(csp_file_join(dir, name, &path));
    status = csp_file_write(path, text, bytes);
    free(path);
    return status;
}

/* The model as a folder that the next phase's checkpoints can name as their base. */
static csp_status write_merged(const csp_run_state *run, const char *dir)
{
    const csp_model *model = run->opened.model;
    const csp_weights_write_options options = { .dtype = model->params->storage.dtype };
    const csp_opened *o = &run->opened;
    char *config = NULL, *contract = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_file_make_dirs(dir));
    csp_file_remove_leftovers(dir);
    CSP_TRY_GOTO(csp_weights_write(run->be, model->params, dir, &options));
    CSP_TRY_GOTO(csp_model_config_text(&model->params->config, options.dtype, &config));
    CSP_TRY_GOTO(write_beside(dir, "config.json", config, (int64_t)strlen(config)));
    CSP_TRY_GOTO(csp_contract_to_json(&o->contract, &contract));
    CSP_TRY_GOTO(write_beside(dir, "csplade.json", contract, (int64_t)strlen(contract)));
    CSP_TRY_GOTO(write_beside(dir, "tokenizer.json", o->tokenizer, o->tokenizer_bytes));

fail:
    free(config);
    free(contract);
    return status;
}

csp_status csp_run_merge_adapter(csp_run_state *run)
{
    static const char name[] = "merged-adapt";
    const csp_model *model = run->opened.model;
    csp_opened *o = &run->opened;
    char *dir = NULL, *stored = NULL;
    csp_status status;

    /* The last checkpoint names the base that is replaced here. */
    CSP_TRY(csp_saver_wait(run->saver));
    CSP_TRY_GOTO(
        csp_weights_merge_lora(run->be, model->params, (uint64_t)run->config->run.seed + 1));
    CSP_TRY_GOTO(csp_file_join(run->config->run.output_dir, name, &dir));
    /* The next phase's checkpoints hold adapters only, so the merged base must be on disk. */
    CSP_TRY_GOTO(csp_run_writes(run) ? write_merged(run, dir) : CSP_OK);
    CSP_TRY_GOTO(csp_snapshot_hash(model, false, o->base_hash));
    CSP_TRY_GOTO(csp_strdup("run", name, &stored));
    free(o->base_path);
    o->base_path = stored;
    o->base_in_run = true;
    csp_log(CSP_LOG_INFO, "train", "adapter merged into %s; a new one begins", dir);

fail:
    free(dir);
    return status;
}
