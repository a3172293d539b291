/* checkpoint.c - writing, finding and reading checkpoints. */
#include "train/checkpoint.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "model/param_values.h"
#include "train/checkpoint_list.h"

enum { NAME_BYTES = CSP_CHECKPOINT_NAME_BYTES, TEXT_LIMIT = 1 << 24 };

/* One of a trained row's two moments: its copy on the host, or through memory made for it. */
static csp_status write_moment(csp_hdf5 *file, const csp_model *model, const csp_param *row,
                               const csp_tensor *moment, const csp_tensor *copy, const char *which,
                               float **values)
{
    char name[CSP_PARAM_NAME_BYTES + 16];
    csp_tensor host = *moment;

    if (copy != NULL) {
        host.data = copy->data;
    } else {
        CSP_TRY(csp_realloc("checkpoint", csp_tensor_count(moment), sizeof(float), values));
        CSP_TRY(csp_backend_download(model->be, moment, *values));
        host.data = *values;
    }
    snprintf(name, sizeof(name), "/optim/%s/%s", which, row->name);
    return csp_hdf5_write(file, name, &host);
}

static csp_status write_moments(csp_hdf5 *file, const csp_model *model,
                                const csp_checkpoint_image *image)
{
    float *values = NULL;
    csp_status status = CSP_OK;

    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];

        if (row->trained) {
            CSP_TRY_GOTO(write_moment(file, model, row, &row->m,
                                      image != NULL ? &image->m[i] : NULL, "m", &values));
            CSP_TRY_GOTO(write_moment(file, model, row, &row->v,
                                      image != NULL ? &image->v[i] : NULL, "v", &values));
        }
    }

fail:
    free(values);
    return status;
}

static csp_status write_progress(csp_hdf5 *file, const csp_progress *p)
{
    const char *at = "/progress";

    CSP_TRY(csp_hdf5_set_text(file, at, "phase", p->phase));
    CSP_TRY(csp_hdf5_set_i64(file, at, "phase_index", p->phase_index));
    CSP_TRY(csp_hdf5_set_i64(file, at, "step", p->step));
    CSP_TRY(csp_hdf5_set_i64(file, at, "next_example", p->next_example));
    CSP_TRY(csp_hdf5_set_i64(file, at, "threads", p->threads));
    CSP_TRY(csp_hdf5_set_i64(file, at, "micro_batch_tokens", p->micro_batch_tokens));
    CSP_TRY(csp_hdf5_set_i64(file, at, "skipped", p->skipped));
    CSP_TRY(csp_hdf5_set_text(file, at, "precision", p->precision));
    CSP_TRY(csp_hdf5_set_text(file, at, "sum_order", p->sum_order));
    CSP_TRY(csp_data_identity_write(file, at, &p->data));
    CSP_TRY(csp_hdf5_set_text(file, at, "metric", p->metric));
    CSP_TRY(csp_hdf5_set_f64(file, at, "best", p->best));
    CSP_TRY(csp_hdf5_set_i64(file, at, "best_step", p->best_step));
    return csp_hdf5_set_text(file, at, "best_phase", p->best_phase);
}

/* A text of any length, which an attribute cannot hold. */
static csp_status write_text(csp_hdf5 *file, const char *name, const char *text)
{
    const int64_t bytes[] = { (int64_t)strlen(text) };
    const csp_tensor t = csp_tensor_view((void *)(uintptr_t)text, CSP_U8, 1, bytes);

    return csp_hdf5_write(file, name, &t);
}

static csp_status write_tuning(csp_hdf5 *file, csp_backend *be, const csp_checkpoint_image *image)
{
    csp_status status = CSP_OK;
    char *got = NULL;
    const char *text;

    if (image == NULL) {
        CSP_TRY(csp_backend_tuning_get(be, &got));
    }
    text = image != NULL ? image->tuning : got;
    if (text[0] != '\0') {
        status = write_text(file, "/tuning", text);
    }
    free(got);
    return status;
}

static csp_status write_file(const char *path, const csp_snapshot *snapshot, const char *config,
                             const csp_progress *progress, const csp_health_memory *health,
                             const csp_checkpoint_image *image, const csp_state_files *state)
{
    csp_snapshot stored = *snapshot;
    csp_hdf5 *file = NULL;
    csp_status status;

    stored.host = image != NULL ? image->value : NULL;
    CSP_TRY(csp_hdf5_create(path, &file));
    CSP_TRY_GOTO(csp_snapshot_write(file, &stored));
    CSP_TRY_GOTO(write_text(file, "/config_yaml", config));
    CSP_TRY_GOTO(write_tuning(file, snapshot->model->be, image));
    CSP_TRY_GOTO(state != NULL
                     ? csp_hdf5_write_strings(file, "/state_files",
                                              (const char *const *)state->names, state->count)
                     : write_moments(file, snapshot->model, image));
    CSP_TRY_GOTO(write_progress(file, progress));
    if (health != NULL) {
        CSP_TRY_GOTO(csp_health_memory_write(file, health));
    }
    return csp_hdf5_commit(file);

fail:
    csp_hdf5_close(file);
    return status;
}

/*
 * Removes what is beyond the limit, the best one excepted. Counting begins at the checkpoint just
 * written: newer ones are damaged, or of steps that the run will do again. A file that stays is
 * only a warning.
 */
static csp_status prune(const char *dir, const csp_config *config, const csp_progress *p)
{
    char best[NAME_BYTES] = "", written[NAME_BYTES];
    csp_checkpoint_entry *list = NULL;
    int64_t count = 0, newer = 0;
    csp_status status;

    csp_checkpoint_name(p->phase, p->step, written);
    if (config->run.keep_best && p->best_phase[0] != '\0') {
        csp_checkpoint_name(p->best_phase, p->best_step, best);
    }
    CSP_TRY(csp_checkpoint_list(dir, &list, &count));
    status = CSP_OK;
    while (newer < count && strcmp(list[newer].name, written) != 0) {
        newer++;
    }
    for (int64_t i = newer + config->run.save_total_limit; i < count; i++) {
        char *path = NULL;

        if (strcmp(list[i].name, best) == 0) {
            continue;
        }
        CSP_TRY_GOTO(csp_file_join(dir, list[i].name, &path));
        if (unlink(path) != 0) {
            csp_log(CSP_LOG_WARN, "train", "%s: cannot be removed: %s", path, strerror(errno));
        } else {
            list[i].name[strlen(list[i].name) - strlen(".h5")] = '\0';
            csp_state_files_remove(dir, list[i].name, NULL);
        }
        free(path);
    }

fail:
    free(list);
    return status;
}

csp_status csp_checkpoint_write(const char *run_dir, const csp_snapshot *snapshot,
                                const csp_config *config, const csp_progress *progress,
                                const csp_health_memory *health, const csp_checkpoint_image *image,
                                const csp_state_files *state, char **path)
{
    char name[NAME_BYTES], stem[NAME_BYTES];
    char *dir = NULL, *file = NULL, *latest = NULL, *text = NULL;
    csp_status status;

    CSP_ASSERT((state != NULL) == csp_params_sharded(snapshot->model->params));
    csp_checkpoint_stem(progress->phase, progress->step, stem);
    csp_checkpoint_name(progress->phase, progress->step, name);
    CSP_TRY_GOTO(csp_checkpoint_dir(run_dir, &dir));
    CSP_TRY_GOTO(csp_file_make_dirs(dir));
    CSP_TRY_GOTO(csp_file_join(dir, name, &file));
    CSP_TRY_GOTO(csp_file_join(dir, "LATEST", &latest));
    CSP_TRY_GOTO(csp_config_meaning(config, &text));
    CSP_TRY_GOTO(write_file(file, snapshot, text, progress, health, image, state));
    CSP_TRY_GOTO(csp_file_write(latest, name, (int64_t)strlen(name)));
    csp_state_files_remove(dir, stem, state); /* of an attempt that gave other numbers */
    CSP_TRY_GOTO(prune(dir, config, progress));
    if (path != NULL) {
        *path = file;
        file = NULL;
    }

fail:
    free(dir);
    free(file);
    free(latest);
    free(text);
    return status;
}

csp_status csp_checkpoint_name_state(const csp_progress *progress, int rank, int ranks,
                                     const csp_state_copy *copy, char name[CSP_STATE_NAME_BYTES])
{
    char stem[NAME_BYTES];

    csp_checkpoint_stem(progress->phase, progress->step, stem);
    return csp_state_name(stem, rank, ranks, copy, name);
}

csp_status csp_checkpoint_write_state(const char *run_dir, const char *name,
                                      const csp_state_copy *copy)
{
    char *dir = NULL;
    csp_status status;

    CSP_TRY_GOTO(csp_checkpoint_dir(run_dir, &dir));
    CSP_TRY_GOTO(csp_file_make_dirs(dir));
    status = csp_state_write(dir, name, copy);

fail:
    free(dir);
    return status;
}

csp_status csp_checkpoint_try_folder(const char *run_dir)
{
    char *dir = NULL, *path = NULL;
    csp_file *file;
    csp_status status;

    CSP_TRY_GOTO(csp_checkpoint_dir(run_dir, &dir));
    CSP_TRY_GOTO(csp_file_make_dirs(dir));
    CSP_TRY_GOTO(csp_file_join(dir, "trial", &path));
    CSP_TRY_GOTO(csp_file_create(path, &file));
    csp_file_abandon(file);

fail:
    free(dir);
    free(path);
    return status;
}

int64_t csp_checkpoint_bytes(const csp_model *model, int64_t tokenizer_bytes)
{
    const bool lora = model->params->lora.R > 0;
    int64_t numbers = 0;

    for (int64_t i = 0; i < model->params->count; i++) {
        const csp_param *row = &model->params->rows[i];

        if (csp_param_is_lora(row) == lora) {
            numbers += csp_tensor_count(&row->value);
        }
        numbers += row->trained ? 2 * csp_tensor_count(&row->value) : 0;
    }
    return 4 * numbers + 8 * model->params->config.V + tokenizer_bytes + (1 << 20);
}

/* A text attribute of the progress. */
static csp_status read_word(const csp_hdf5 *file, const char *key, char *word, size_t bytes)
{
    char *text = NULL;

    CSP_TRY(csp_hdf5_get_text(file, "/progress", key, &text));
    snprintf(word, bytes, "%s", text);
    free(text);
    return CSP_OK;
}

static csp_status read_progress(const csp_hdf5 *file, csp_progress *p)
{
    const char *at = "/progress";
    int64_t index;

    CSP_TRY(read_word(file, "phase", p->phase, sizeof(p->phase)));
    CSP_TRY(read_word(file, "best_phase", p->best_phase, sizeof(p->best_phase)));
    CSP_TRY(read_word(file, "metric", p->metric, sizeof(p->metric)));
    p->skipped = 0; /* where the attributes are not there: nothing else was possible */
    p->sum_order[0] = '\0';
    snprintf(p->precision, sizeof(p->precision), "fp32");
    if (csp_hdf5_has_attribute(file, at, "skipped")) {
        CSP_TRY(csp_hdf5_get_i64(file, at, "skipped", &p->skipped));
    }
    if (csp_hdf5_has_attribute(file, at, "precision")) {
        CSP_TRY(read_word(file, "precision", p->precision, sizeof(p->precision)));
    }
    if (csp_hdf5_has_attribute(file, at, "sum_order")) {
        CSP_TRY(read_word(file, "sum_order", p->sum_order, sizeof(p->sum_order)));
    }
    CSP_TRY(csp_hdf5_get_i64(file, at, "phase_index", &index));
    p->phase_index = index >= 0 && index <= INT_MAX ? (int)index : INT_MAX;
    CSP_TRY(csp_hdf5_get_i64(file, at, "step", &p->step));
    CSP_TRY(csp_hdf5_get_i64(file, at, "next_example", &p->next_example));
    CSP_TRY(csp_hdf5_get_i64(file, at, "threads", &p->threads));
    CSP_TRY(csp_hdf5_get_i64(file, at, "micro_batch_tokens", &p->micro_batch_tokens));
    CSP_TRY(csp_data_identity_read(file, at, &p->data));
    CSP_TRY(csp_hdf5_get_f64(file, at, "best", &p->best));
    return csp_hdf5_get_i64(file, at, "best_step", &p->best_step);
}

/* What is used as an index or a size must be in range, whoever wrote the file. */
static csp_status check_progress(const char *path, const csp_progress *p, const csp_config *config)
{
    const csp_text_list *phases = &config->run.phases;
    const bool named =
        p->phase_index < phases->count && strcmp(phases->values[p->phase_index], p->phase) == 0;
    const int64_t steps = !named                           ? 0
                          : strcmp(p->phase, "adapt") == 0 ? config->adapt.max_steps
                                                           : config->contrastive.max_steps;

    if (!named || p->step < 1 || p->step > steps || p->threads < 1 || p->threads > 4096 ||
        p->micro_batch_tokens < 1 || p->skipped < 0 || p->skipped > p->step) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s: its progress (phase %d %s, step %lld, %lld threads, %lld token rows) "
                        "is not one of its config",
                        path, p->phase_index, p->phase, (long long)p->step, (long long)p->threads,
                        (long long)p->micro_batch_tokens);
    }
    return CSP_OK;
}

/* What write_text wrote. Owner: the caller frees *out. */
static csp_status read_text(const csp_hdf5 *file, const char *path, const char *name, char **out)
{
    csp_tensor t;
    char *text;
    csp_status status;

    CSP_TRY(csp_hdf5_describe(file, name, &t));
    if (csp_tensor_count(&t) > TEXT_LIMIT || t.dtype != CSP_U8) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: its %s is not a text", path, name);
    }
    CSP_TRY(csp_alloc_zero("checkpoint", csp_tensor_count(&t) + 1, 1, &text));
    t.data = text;
    status = csp_hdf5_read(file, name, &t);
    if (status != CSP_OK) {
        free(text);
        return status;
    }
    *out = text;
    return CSP_OK;
}

csp_status csp_checkpoint_peek(const csp_hdf5 *file, const char *path, csp_progress *progress,
                               csp_config **config)
{
    csp_progress p = { 0 };
    csp_config *there = NULL;
    char *text = NULL;
    csp_status status;

    if (!csp_hdf5_has(file, "/config_yaml")) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: not a checkpoint of a training run", path);
    }
    CSP_TRY_GOTO(read_progress(file, &p));
    CSP_TRY_GOTO(read_text(file, path, "/config_yaml", &text));
    CSP_TRY_GOTO(csp_config_parse(path, text, &there));
    CSP_TRY_GOTO(check_progress(path, &p, there));
    *progress = p;
    *config = there;
    there = NULL;

fail:
    csp_config_free(there);
    free(text);
    return status;
}

static csp_status read_moments(const csp_hdf5 *file, csp_model *model, csp_keepalive *alive)
{
    float *values = NULL;
    csp_status status = CSP_OK;

    for (int64_t i = 0; i < model->params->count; i++) {
        csp_param *row = &model->params->rows[i];

        for (int which = 0; row->trained && which < 2; which++) {
            csp_tensor *moment = which == 0 ? &row->m : &row->v;
            csp_tensor host = csp_tensor_view(NULL, CSP_F32, row->ndim, row->dim);
            char name[CSP_PARAM_NAME_BYTES + 16];

            snprintf(name, sizeof(name), "/optim/%s/%s", which == 0 ? "m" : "v", row->name);
            CSP_TRY_GOTO(
                csp_realloc("checkpoint", csp_tensor_count(&host), sizeof(float), &values));
            host.data = values;
            CSP_TRY_GOTO(csp_hdf5_read(file, name, &host));
            CSP_TRY_GOTO(
                csp_state_upload(model->be, row, moment, 0, csp_tensor_count(&host), values));
            CSP_TRY_GOTO(csp_keepalive_tick(alive));
        }
    }

fail:
    free(values);
    return status;
}

/* Choices that do not hold here are only a warning: what they give differs by roundings. */
static csp_status read_tuning(const csp_hdf5 *file, const char *path, csp_backend *be)
{
    char *text;
    csp_status status;

    if (!csp_hdf5_has(file, "/tuning")) {
        return CSP_OK;
    }
    CSP_TRY(read_text(file, path, "/tuning", &text));
    status = csp_backend_tuning_set(be, text);
    free(text);
    if (status == CSP_ERR_UNSUPPORTED) {
        csp_log(CSP_LOG_WARN, "train", "%s: the run goes on, but not to the same bits",
                csp_error_text());
        return CSP_OK;
    }
    return status;
}

csp_status csp_checkpoint_read_state(csp_resume_point *point, const csp_ranks *ranks,
                                     csp_model *model, csp_health_memory *health)
{
    const csp_hdf5 *file = point->file;
    csp_keepalive alive;
    csp_status status;

    csp_keepalive_begin(&alive, ranks, "reading the state");
    CSP_TRY_GOTO(point->state.count > 0
                     ? csp_state_files_read(point->path, &point->state, &alive, model)
                     : read_moments(file, model, &alive));
    CSP_TRY_GOTO(read_tuning(file, point->path, model->be));
    CSP_TRY_GOTO(csp_keepalive_end(&alive));
    return csp_health_memory_read(file, model->params->config.V, health);

fail:
    csp_keepalive_leave(&alive, status);
    return status;
}
