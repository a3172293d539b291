/* trainer.c - the step loop, written once for both phases. */
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "ops/matrix_rate.h"
#include "train/memory_plan.h"
#include "train/rank_times.h"
#include "train/replicas.h"
#include "train/schedule.h"
#include "train/trainer_internal.h"

/* One phase while it runs: just one of the two objectives exists. */
typedef struct phase_state {
    csp_run_state *run;
    const csp_optim_settings *optim;
    int64_t first; /* steps that were done when this process began the phase */
    int64_t steps;
    csp_adapt *adapt;
    csp_contrastive *contrastive;
    csp_rank_times *times; /* NULL on one rank */
    double began_s;
    double data_s; /* of the last step that it waited for its texts */
    bool collapsed;
} phase_state;

static void close_phase(phase_state *p)
{
    if (p->run != NULL) {
        p->run->health = NULL;
    }
    csp_rank_times_destroy(p->times);
    csp_adapt_destroy(p->adapt);
    csp_contrastive_destroy(p->contrastive);
}

/* What a phase takes, and how it makes do with what there is, in words. */
static void say_memory(const csp_run_state *run, const csp_phase_memory *p)
{
    const double mib = 1048576.0;

    csp_log(CSP_LOG_INFO, "train",
            "phase %s on %s in %s: %.1f MiB for activations of %lld token rows at once, keeping "
            "%s; %.1f MiB for those of a whole step, of which %.1f MiB may stay",
            p->phase, run->be->name, run->progress.precision, (double)p->micro_batch / mib,
            (long long)p->rows, csp_keep_name(p->keep), (double)p->step / mib,
            (double)p->budget / mib);
}

/* The panel of the contrastive phase; what it remembered goes on in the phase of the checkpoint. */
static void watch(csp_run_state *run, csp_health *health)
{
    if (run->remembered.vocab > 0) {
        csp_health_recall(health, &run->remembered);
        csp_health_memory_clear(&run->remembered);
    }
    run->health = csp_health_remembers(health);
}

static csp_status open_phase(csp_run_state *run, const char *name, phase_state *p)
{
    const csp_config *config = run->config;
    const bool adapt = strcmp(name, "adapt") == 0;
    const int64_t set = adapt ? config->adapt.batch.micro_batch_tokens
                              : config->contrastive.batch.micro_batch_tokens;
    csp_phase_memory plan;
    csp_memory memory;

    p->run = run;
    p->began_s = csp_machine_seconds();
    if (run->ranks != NULL) {
        CSP_TRY(csp_rank_times_create(run->ranks->size, &p->times));
        CSP_TRY(csp_rank_times_meet(p->times, run->ranks));
    }
    CSP_TRY(csp_run_memory(run, &memory));
    CSP_TRY(csp_phase_memory_plan(config, run->opened.model->params, name,
                                  run->progress.micro_batch_tokens, csp_ranks_size(run->ranks),
                                  &memory, &plan));
    say_memory(run, &plan);
    run->rows = set > 0 ? set : run->progress.micro_batch_tokens;
    if (adapt) {
        const csp_adapt_options options = { .max_rows = run->rows,
                                            .max_len = plan.longest,
                                            .texts = config->adapt.batch.texts /
                                                     csp_ranks_size(run->ranks),
                                            .keep = plan.keep,
                                            .lambda_relu = config->adapt.lambda_relu,
                                            .ranks = run->ranks,
                                            .watch = csp_optimizer_watch(run->optimizer) };

        p->optim = &config->adapt.optim;
        p->steps = config->adapt.max_steps;
        return csp_adapt_create(run->be, run->opened.model, &run->opened.contract, &options,
                                &p->adapt);
    } else {
        const csp_contrastive_settings *s = &config->contrastive;
        const csp_contrastive_options options = {
            .queries = s->batch.queries,
            .passages = s->batch.queries * config->data.train_group_size,
            .max_rows = run->rows,
            .budget = plan.budget,
            .keep = plan.keep,
            .temperature = s->temperature,
            .regularizer = s->regularizer == CSP_REGULARIZER_L1 ? CSP_REG_L1 : CSP_REG_FLOPS,
            .limits = { .zero_rows = config->run.collapse_share,
                        .top_position = 0.8,
                        .dead_terms = 0.99 },
            .ranks = run->ranks,
            .group = run->group,
            .watch = csp_optimizer_watch(run->optimizer)
        };

        p->optim = &s->optim;
        p->steps = s->max_steps;
        CSP_TRY(csp_contrastive_create(run->be, run->opened.model, &run->opened.contract, &options,
                                       &p->contrastive));
        watch(run, csp_contrastive_health(p->contrastive));
        return CSP_OK;
    }
}

/* Enqueues losses and gradients of step k, from 0; faults are those of csp_adamw. */
static csp_status gradients(phase_state *p, int64_t k, csp_tensor *faults)
{
    csp_run_state *run = p->run;
    const csp_config *config = run->config;
    const double begin = csp_machine_seconds();
    csp_pass pass = { .causal = true,
                      .dropout = config->lora.enabled && config->lora.dropout > 0.0,
                      .seed = (uint64_t)config->run.seed,
                      .step = (uint64_t)k };

    if (p->adapt != NULL) {
        const csp_token_lists *texts;
        const int64_t *number;

        CSP_TRY(csp_train_data_plain(run->data, k, &texts, &number));
        p->data_s = csp_machine_seconds() - begin;
        CSP_TRY(csp_adapt_run(p->adapt, texts, number, &pass, true));
        *faults = csp_adapt_faults(p->adapt);
    } else {
        const csp_contrastive_settings *s = &config->contrastive;
        csp_contrastive_texts texts;
        csp_contrastive_step step = { .step = k + 1,
                                      .lambda_q = csp_lambda_at(s->lambda_q, k, s->ramp_steps),
                                      .lambda_d = csp_lambda_at(s->lambda_d, k, s->ramp_steps) };

        pass.causal = run->opened.contract.variant != CSP_VARIANT_BI;
        /* Phases draw different masks at the same step number. */
        pass.step += (uint64_t)1 << 32;
        step.pass = pass;
        CSP_TRY(csp_train_data_pairs(run->data, k, &texts));
        p->data_s = csp_machine_seconds() - begin;
        CSP_TRY(csp_contrastive_run(p->contrastive, &texts, &step));
        *faults = csp_contrastive_faults(p->contrastive);
    }
    return CSP_OK;
}

/* Step k with its update, and the one wait for the device. */
static csp_status gradients_and_update(phase_state *p, int64_t k, csp_step_metrics *m, double *flop)
{
    csp_run_state *run = p->run;
    csp_tensor faults;

    CSP_TRY(gradients(p, k, &faults));
    CSP_TRY(csp_saver_copied(run->saver)); /* the update writes what is copied */
    CSP_TRY(csp_optimizer_step(run->optimizer, p->optim, k + 1, p->steps, &faults));
    CSP_TRY(csp_backend_sync(run->be));
    if (p->adapt != NULL) {
        CSP_TRY(csp_adapt_read(p->adapt, m));
        *flop = csp_adapt_flop(p->adapt);
    } else {
        CSP_TRY(csp_contrastive_read(p->contrastive, m));
        *flop = csp_contrastive_flop(p->contrastive);
    }
    csp_optimizer_read(run->optimizer, m);
    return CSP_OK;
}

/*
 * For what all ranks end for, each of its own accord: none reports it, which ends the others,
 * before what was saved is in its files.
 */
static csp_status finish_saving(const csp_run_state *run)
{
    int32_t there = 1;

    CSP_TRY(csp_saver_wait(run->saver));
    return csp_ranks_reduce_host(run->ranks, &there, CSP_I32, 1, CSP_COMM_MIN,
                                 "the last checkpoint");
}

/* A step that made no update is said aloud; too many in a row are no accident. */
static csp_status count_skipped(csp_run_state *run, const csp_step_metrics *m)
{
    const char *bad = csp_optimizer_bad(run->optimizer);
    const int64_t most = run->config->run.max_skipped_steps;

    run->progress.skipped = bad != NULL ? run->progress.skipped + 1 : 0;
    if (bad == NULL) {
        return CSP_OK;
    }
    if (run->progress.skipped > most) {
        CSP_TRY(finish_saving(run));
        return CSP_FAIL(CSP_ERR_NUMERIC,
                        "%s step %lld: the gradient of %s is not finite, in %lld steps in a row "
                        "now (run.max_skipped_steps is %lld)",
                        m->phase, (long long)m->step, bad, (long long)run->progress.skipped,
                        (long long)most);
    }
    csp_log(CSP_LOG_WARN, "train",
            "%s step %lld: the gradient of %s is not finite, step skipped, %lld in a row of at "
            "most %lld",
            m->phase, (long long)m->step, bad, (long long)run->progress.skipped, (long long)most);
    return CSP_OK;
}

/* How evenly the step was shared, and what that took; the ranks tell each other here. */
static csp_status compare_work(phase_state *p, double seconds, const csp_comm_traffic *before,
                               csp_step_metrics *m)
{
    const csp_ranks *ranks = p->run->ranks;
    csp_comm_traffic now;
    csp_rank_work own;

    m->ranks = csp_ranks_size(ranks);
    m->data_wait = p->data_s / seconds;
    if (ranks == NULL) {
        return CSP_OK;
    }
    CSP_TRY(csp_ranks_count_waits(ranks));
    now = csp_comm_traffic_of(ranks->comm);
    own = (csp_rank_work) { .seconds = seconds,
                            .data_s = p->data_s,
                            .waited_s = now.waited_s - before->waited_s,
                            .busy_s = now.busy_s - before->busy_s,
                            .sent = (double)(now.sent - before->sent),
                            .paused_s = isnan(m->save_pause_s) ? 0.0 : m->save_pause_s };
    return csp_rank_times_step(p->times, ranks, &own, m);
}

/* One optimizer step, logged. */
static csp_status run_step(phase_state *p, int64_t k)
{
    csp_run_state *run = p->run;
    const int64_t every = run->config->run.logging_steps;
    const double start = csp_machine_seconds();
    csp_comm_traffic before = { 0 };
    csp_step_metrics m;
    double flop, seconds;

    if (run->ranks != NULL) {
        before = csp_comm_traffic_of(run->ranks->comm);
    }
    csp_step_metrics_clear(&m, run->progress.phase, k + 1, p->steps);
    CSP_TRY(gradients_and_update(p, k, &m, &flop));
    CSP_TRY(count_skipped(run, &m));
    seconds = csp_machine_seconds() - start;
    csp_saver_times(run->saver, &m.save_pause_s, &m.save_write_s);
    CSP_TRY(compare_work(p, seconds, &before, &m));
    m.tokens_per_s = m.tokens / seconds;
    m.gflop_per_s = flop / seconds * 1e-9;
    m.matmul_gflop_per_s = run->matmul_gflop_per_s;
    m.mfu = m.gflop_per_s / m.matmul_gflop_per_s;
    m.peak_mb = csp_machine_peak_mb();
    m.elapsed_s = csp_machine_seconds() - p->began_s;
    if (csp_run_writes(run)) {
        CSP_TRY(csp_metrics_log_step(run->log, &m));
        csp_metrics_log_say(&m,
                            m.elapsed_s / (double)(k + 1 - p->first) * (double)(p->steps - k - 1),
                            (k + 1) % every == 0 || k == 0 || k + 1 == p->steps);
    }
    if (p->contrastive != NULL) {
        csp_contrastive_warn(p->contrastive, &m, &p->collapsed);
        if (p->collapsed && run->config->run.stop_on_collapse) {
            CSP_TRY(finish_saving(run));
            return CSP_FAIL(
                CSP_ERR_NUMERIC,
                "%s step %lld: %.0f %% of the queries and %.0f %% of the documents have "
                "no term: collapsed (run.stop_on_collapse)",
                m.phase, (long long)(k + 1), 100.0 * m.zero_q, 100.0 * m.zero_d);
        }
    }
    return CSP_OK;
}

/* Where the data stands after so many steps of a phase. */
static int64_t position_after(const csp_run_state *run, int64_t steps)
{
    const bool adapt = strcmp(run->progress.phase, "adapt") == 0;

    return steps *
           (adapt ? run->config->adapt.batch.texts : run->config->contrastive.batch.queries);
}

/*
 * What signals and the clock ask for, whether a checkpoint is being written, and whether there are
 * more choices of algorithms to share, of any rank.
 */
typedef struct wishes {
    int32_t stop, save, timed_out, writes, tuned;
} wishes;

static csp_status ask_all(const csp_run_state *run, wishes *w)
{
    const double minutes = run->config->run.max_minutes;
    bool writes;

    CSP_TRY(csp_saver_poll(run->saver, &writes));
    w->writes = writes;
    w->stop = *run->options->stop != 0;
    w->save = *run->options->save != 0;
    w->timed_out = minutes > 0.0 && csp_machine_seconds() - run->started_s >= 60.0 * minutes;
    w->tuned = csp_run_has_tuned(run);
    *run->options->save = 0;
    return csp_ranks_reduce_host(run->ranks, w, CSP_I32, sizeof(*w) / sizeof(int32_t), CSP_COMM_MAX,
                                 "the end of a step");
}

/* What is due after a step: an evaluation, a checkpoint, the end of the time. */
static csp_status after_step(phase_state *p, int64_t done)
{
    csp_run_state *run = p->run;
    const csp_run_settings *s = &run->config->run;
    const bool last = done == p->steps;
    const bool end = last && run->progress.phase_index + 1 == s->phases.count;
    bool save = last || (s->save_steps > 0 && done % s->save_steps == 0), stop;
    wishes w;

    CSP_TRY(ask_all(run, &w));
    csp_saver_learn(run->saver, w.writes != 0);
    CSP_TRY(w.tuned != 0 ? csp_run_share_tuning(run) : CSP_OK);
    if (s->checksum_steps > 0 && done % s->checksum_steps == 0) {
        CSP_TRY(csp_replicas_agree(run->ranks, run->opened.model));
    }
    stop = w.stop != 0 || w.timed_out != 0;
    run->progress.step = done;
    run->progress.next_example = position_after(run, done);
    if (run->dev != NULL && (last || done % s->eval_steps == 0)) {
        const double best = run->progress.best;

        CSP_TRY(csp_run_evaluate(run));
        /* The best model is only worth naming if its checkpoint exists. */
        save = save || (s->keep_best && (isnan(best) || run->progress.best > best));
    }
    if (save || stop || w.save != 0) {
        CSP_TRY(csp_run_save(run));
    }
    if (stop && !end) {
        CSP_TRY(csp_saver_wait(run->saver));
        return CSP_FAIL(CSP_ERR_INTERRUPTED,
                        "stopped after step %lld of %lld of phase %s with a checkpoint%s; the same "
                        "command goes on",
                        (long long)done, (long long)p->steps, run->progress.phase,
                        w.timed_out != 0 ? " (run.max_minutes)" : "");
    }
    return CSP_OK;
}

/* How ranks add up gradients, and who has which state. */
static void say_sharing(const csp_run_state *run)
{
    const csp_params *params = run->opened.model->params;

    if (run->ranks == NULL || params->bucket_count == 0) {
        return;
    }
    csp_log(CSP_LOG_INFO, "train",
            "gradients are added up in %lld bucket%s; %s %.1f MiB of optimizer state%s",
            (long long)params->bucket_count, params->bucket_count == 1 ? "" : "s",
            csp_params_sharded(params) ? "each rank has its" : "every rank has all",
            (double)(csp_params_state_bytes(params) * params->own_elements) / 1048576.0,
            csp_params_sharded(params) ? ", and writes it beside checkpoints" : "");
}

static csp_status run_phase(csp_run_state *run, const char *name, int64_t first)
{
    phase_state p = { 0 };
    csp_status status;

    snprintf(run->progress.phase, sizeof(run->progress.phase), "%s", name);
    CSP_TRY_GOTO(open_phase(run, name, &p));
    if (first < p.steps) {
        csp_log(CSP_LOG_INFO, "train",
                "phase %s: steps %lld to %lld, %d threads, %lld token rows at once", name,
                (long long)first + 1, (long long)p.steps, run->be->threads, (long long)run->rows);
    } else {
        csp_log(CSP_LOG_INFO, "train", "phase %s: all %lld steps are done", name,
                (long long)p.steps);
    }
    p.first = first;
    CSP_TRY_GOTO(csp_train_data_begin(run->data, name, first, p.steps));
    for (int64_t k = first; k < p.steps; k++) {
        CSP_TRY_GOTO(run_step(&p, k));
        CSP_TRY_GOTO(after_step(&p, k + 1));
    }
    csp_train_data_say(run->data, name);
    if (p.times != NULL && csp_run_writes(run)) {
        csp_rank_times_say(p.times, name);
    }
    /* What follows, be it the end, may need the file, and the moments begin anew. */
    CSP_TRY_GOTO(csp_saver_wait(run->saver));

fail:
    if (status != CSP_OK && status != CSP_ERR_INTERRUPTED) {
        csp_ranks_abort(run->ranks, status);
    }
    csp_train_data_end(run->data);
    csp_log_progress(NULL);
    close_phase(&p);
    return status;
}

static int64_t steps_of(const csp_config *config, const char *phase)
{
    return strcmp(phase, "adapt") == 0 ? config->adapt.max_steps : config->contrastive.max_steps;
}

/*
 * Which lines of metrics.jsonl a resumed run keeps: earlier phases whole, this one up to its step.
 */
static csp_status open_log(csp_run_state *run)
{
    const csp_text_list *phases = &run->config->run.phases;
    int64_t *steps = NULL;
    const int count = run->resumed ? run->progress.phase_index + 1 : 0;
    csp_status status;

    CSP_TRY(csp_alloc("run", count, sizeof(*steps), &steps));
    for (int i = 0; i < count; i++) {
        steps[i] = i < run->progress.phase_index ? steps_of(run->config, phases->values[i])
                                                 : run->progress.step;
    }
    status = csp_metrics_log_open(run->config->run.output_dir, (const char *const *)phases->values,
                                  steps, count, &run->log);
    free(steps);
    return status;
}

static csp_status write_config(const csp_run_state *run)
{
    char *path = NULL, *text = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_file_join(run->config->run.output_dir, "config.yaml", &path));
    CSP_TRY_GOTO(csp_config_dump(run->config, false, &text));
    status = csp_file_write(path, text, (int64_t)strlen(text));

fail:
    free(path);
    free(text);
    return status;
}

/* All phases from where the run stands. */
static csp_status run_phases(csp_run_state *run)
{
    const csp_text_list *phases = &run->config->run.phases;
    int64_t first = run->resumed ? run->progress.step : 0;

    for (int i = run->resumed ? run->progress.phase_index : 0; i < phases->count; i++) {
        const bool begins = first == 0;

        if (begins && i > 0 && run->config->lora.enabled &&
            run->config->lora.between_phases == CSP_LORA_MERGE) {
            CSP_TRY(csp_run_merge_adapter(run));
        }
        if (begins) {
            CSP_TRY(csp_optimizer_reset(run->optimizer));
        }
        run->progress.phase_index = i;
        CSP_TRY(run_phase(run, phases->values[i], first));
        first = 0;
    }
    return CSP_OK;
}

/* The plan of a run in words: what --dry-run is for. */
static csp_status describe(csp_run_state *run)
{
    const csp_config *config = run->config;
    csp_contrastive_texts texts;
    const csp_token_lists *plain;
    const int64_t *number;
    int64_t all, trained;

    csp_params_elements(run->opened.model->params, &all, &trained);
    if (run->ranks != NULL) {
        csp_log(CSP_LOG_INFO, "train", "%d ranks; what follows is rank 0's share of a step",
                run->ranks->size);
    }
    csp_log(
        CSP_LOG_INFO, "train", "%lld parameters, %lld trained; checkpoints of about %lld MB",
        (long long)all, (long long)trained,
        (long long)(csp_checkpoint_bytes(run->opened.model, run->opened.tokenizer_bytes) >> 20));
    if (run->resumed) {
        csp_log(CSP_LOG_INFO, "train", "it would go on from %s", run->resume_path);
    }
    if (csp_config_has_phase(config, "adapt")) {
        CSP_TRY(csp_train_data_plain(run->data, 0, &plain, &number));
        csp_log(CSP_LOG_INFO, "train", "adapt: %lld steps, the first has %lld texts, %lld tokens",
                (long long)config->adapt.max_steps, (long long)plain->count,
                (long long)plain->start[plain->count]);
    }
    if (csp_config_has_phase(config, "contrastive")) {
        CSP_TRY(csp_train_data_pairs(run->data, 0, &texts));
        csp_log(CSP_LOG_INFO, "train",
                "contrastive: %lld steps, the first has %lld queries of %lld tokens and %lld "
                "documents of %lld tokens",
                (long long)config->contrastive.max_steps, (long long)texts.queries->count,
                (long long)texts.queries->start[texts.queries->count],
                (long long)texts.passages->count,
                (long long)texts.passages->start[texts.passages->count]);
    }
    return CSP_OK;
}

static void report(const csp_run_state *run, csp_train_result *result)
{
    const csp_progress *p = &run->progress;
    const char *dir = run->config->run.output_dir;

    snprintf(result->model, sizeof(result->model), "%s/checkpoints/%s-%08lld.h5", dir, p->phase,
             (long long)p->step);
    result->best_value = p->best;
    if (p->best_phase[0] != '\0') {
        snprintf(result->best, sizeof(result->best), "%s/checkpoints/%s-%08lld.h5", dir,
                 p->best_phase, (long long)p->best_step);
    }
}

/*
 * The best of a few products, because what else runs on the machine can only slow them down. It
 * goes into metrics alone: a checkpoint knows no time.
 */
static csp_status measure_ceiling(csp_run_state *run)
{
    csp_matrix_product product;
    double seconds[3];

    run->matmul_gflop_per_s = run->options->matmul_gflop_per_s;
    if (run->matmul_gflop_per_s > 0.0) {
        return CSP_OK;
    }
    /* All ranks at once, as in a step. */
    CSP_TRY(csp_matrix_rate(run->be, run->storage.dtype, 1, 3, seconds, &product));
    run->matmul_gflop_per_s = product.flop / seconds[0] * 1e-9;
    CSP_TRY(csp_ranks_reduce_host(run->ranks, &run->matmul_gflop_per_s, CSP_F64, 1, CSP_COMM_SUM,
                                  "the rate of products"));
    csp_log(CSP_LOG_INFO, "train",
            "%s: a large matrix product runs at %.4g GFLOP/s, which is mfu 1", run->be->name,
            run->matmul_gflop_per_s);
    return CSP_OK;
}

csp_status csp_train(const csp_config *config, const csp_train_options *options,
                     csp_train_result *result)
{
    csp_run_state run = { .config = config, .options = options };
    csp_status status;

    memset(result, 0, sizeof(*result));
    CSP_TRY_GOTO(csp_run_setup(&run));
    if (options->dry_run) {
        status = describe(&run);
        goto fail;
    }
    if (run.resumed) {
        csp_log(CSP_LOG_INFO, "train", "going on from %s", run.resume_path);
    }
    if (*options->stop != 0) {
        status = CSP_FAIL(CSP_ERR_INTERRUPTED, "stopped before a step was done: nothing to save");
        goto fail;
    }
    CSP_TRY_GOTO(csp_run_writes(&run) ? write_config(&run) : CSP_OK);
    say_sharing(&run);
    CSP_TRY_GOTO(measure_ceiling(&run));
    CSP_TRY_GOTO(csp_run_writes(&run) ? open_log(&run) : CSP_OK);
    CSP_TRY_GOTO(run_phases(&run));
    if (csp_run_writes(&run)) {
        report(&run, result);
    }

fail:
    if (status != CSP_OK && status != CSP_ERR_INTERRUPTED && run.together.devices != NULL) {
        csp_ranks_abort(run.ranks, status); /* the devices of others may wait for this one */
    }
    csp_run_clear(&run);
    return status;
}
