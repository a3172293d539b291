/* metrics_log.c - metrics.jsonl and TensorBoard, written as the run goes. */
#include "train/metrics_log.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "io/lines.h"
#include "io/tfevents.h"

enum { LINE_BYTES = 4096, BAR_CELLS = 20 };

struct csp_metrics_log {
    char *path;
    FILE *stream;
    csp_tfevents *events;
    int64_t base; /* TensorBoard step before this phase: phases follow each other on one axis */
    char phase[32];
    int64_t last_step;
};

/* Whether a line of the earlier run stays. */
static csp_status keeps(const csp_lines *lines, const char *line, int64_t bytes,
                        const char *const *phases, const int64_t *steps, int count, bool *out)
{
    json_t *object = json_loadb(line, (size_t)bytes, 0, NULL);
    const char *phase = json_string_value(json_object_get(object, "phase"));
    const json_t *step = json_object_get(object, "step");

    *out = false;
    if (phase == NULL || !json_is_integer(step)) {
        json_decref(object);
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: not a line of metrics; move the file away",
                        csp_lines_path(lines), (long long)csp_lines_number(lines));
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(phase, phases[i]) == 0 && json_integer_value(step) <= steps[i]) {
            *out = true;
        }
    }
    json_decref(object);
    return CSP_OK;
}

/* Copies the lines that stay into a new file of the same name. */
static csp_status rewrite(const char *path, const char *const *phases, const int64_t *steps,
                          int count)
{
    csp_lines *lines = NULL;
    csp_file *file = NULL;
    char *line = NULL;
    int64_t bytes;
    csp_status status;

    CSP_TRY(csp_lines_open(path, &lines));
    CSP_TRY_GOTO(csp_file_create(path, &file));
    for (;;) {
        bool stay;

        CSP_TRY_GOTO(csp_lines_next(lines, &line, &bytes));
        if (line == NULL) {
            break;
        }
        /* A last line without its brace was torn by a kill: the run will write that step again. */
        if (bytes == 0 || line[bytes - 1] != '}') {
            continue;
        }
        CSP_TRY_GOTO(keeps(lines, line, bytes, phases, steps, count, &stay));
        if (stay) {
            fprintf(csp_file_stream(file), "%s\n", line);
        }
    }
    status = csp_file_commit(file);
    file = NULL;

fail:
    csp_lines_close(lines);
    csp_file_abandon(file);
    return status;
}

csp_status csp_metrics_log_open(const char *run_dir, const char *const *keep_phases,
                                const int64_t *keep_steps, int count, csp_metrics_log **out)
{
    csp_metrics_log *log;
    csp_status status;

    CSP_TRY(csp_alloc_zero("metrics log", 1, sizeof(*log), &log));
    CSP_TRY_GOTO(csp_file_join(run_dir, "metrics.jsonl", &log->path));
    if (count > 0 && csp_file_exists(log->path)) {
        CSP_TRY_GOTO(rewrite(log->path, keep_phases, keep_steps, count));
    }
    for (int i = 0; i + 1 < count; i++) {
        log->base += keep_steps[i];
    }
    log->stream = fopen(log->path, count > 0 ? "ab" : "wb");
    if (log->stream == NULL) {
        status = CSP_FAIL(CSP_ERR_IO, "%s: %s", log->path, strerror(errno));
        goto fail;
    }
    CSP_TRY_GOTO(csp_tfevents_create(run_dir, &log->events));
    *out = log;
    return CSP_OK;

fail:
    csp_metrics_log_close(log);
    return status;
}

void csp_metrics_log_close(csp_metrics_log *log)
{
    if (log == NULL) {
        return;
    }
    if (log->stream != NULL && fclose(log->stream) != 0) {
        csp_log(CSP_LOG_WARN, "train", "%s: %s", log->path, strerror(errno));
    }
    csp_tfevents_close(log->events);
    free(log->path);
    free(log);
}

/* One axis for all phases: the next phase goes on where the last one ended. */
static int64_t axis_step(csp_metrics_log *log, const char *phase, int64_t step)
{
    if (strcmp(log->phase, phase) != 0) {
        log->base += log->last_step;
        log->last_step = 0;
        snprintf(log->phase, sizeof(log->phase), "%s", phase);
    }
    log->last_step = step > log->last_step ? step : log->last_step;
    return log->base + step;
}

static csp_status write_line(csp_metrics_log *log, const char *text)
{
    if (fprintf(log->stream, "%s\n", text) < 0 || fflush(log->stream) != 0) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s", log->path, strerror(errno));
    }
    return CSP_OK;
}

csp_status csp_metrics_log_step(csp_metrics_log *log, const csp_step_metrics *m)
{
    const int64_t step = axis_step(log, m->phase, m->step);
    char text[LINE_BYTES];

    CSP_TRY(csp_step_metrics_json(m, text, sizeof(text)));
    CSP_TRY(write_line(log, text));
    for (int i = 0; i < csp_metric_row_count; i++) {
        const double value = csp_metric_value(m, &csp_metric_rows[i]);

        if (isfinite(value)) {
            snprintf(text, sizeof(text), "%s/%s", m->phase, csp_metric_rows[i].key);
            CSP_TRY(csp_tfevents_scalar(log->events, step, text, value));
        }
    }
    return CSP_OK;
}

csp_status csp_metrics_log_eval(csp_metrics_log *log, const char *phase, int64_t step,
                                const char *const *names, const double *values, int count)
{
    const int64_t axis = axis_step(log, phase, step);
    char text[LINE_BYTES];
    size_t used = (size_t)snprintf(text, sizeof(text), "{\"phase\":\"%s\",\"step\":%lld", phase,
                                   (long long)step);

    for (int i = 0; i < count && used < sizeof(text); i++) {
        char tag[64];

        used += (size_t)snprintf(text + used, sizeof(text) - used, ",\"eval/%s\":%.9g", names[i],
                                 values[i]);
        snprintf(tag, sizeof(tag), "eval/%s", names[i]);
        CSP_TRY(csp_tfevents_scalar(log->events, axis, tag, values[i]));
    }
    if (used + 2 > sizeof(text)) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "metrics log: %d values do not fit in a line", count);
    }
    text[used] = '}';
    text[used + 1] = '\0';
    CSP_TRY(write_line(log, text));
    return csp_tfevents_flush(log->events);
}

void csp_metrics_log_say(const csp_step_metrics *m, double left_s, bool whole_line)
{
    char text[LINE_BYTES], bar[BAR_CELLS + 1];
    const double share = m->steps > 0 ? (double)m->step / (double)m->steps : 0.0;

    csp_step_metrics_line(m, text, sizeof(text));
    if (whole_line) {
        csp_log(CSP_LOG_INFO, "train", "%s", text);
    }
    for (int i = 0; i < BAR_CELLS; i++) {
        bar[i] = (double)i < share * BAR_CELLS ? '#' : '.';
    }
    bar[BAR_CELLS] = '\0';
    if (csp_log_is_live()) {
        csp_log_progress("%3.0f%% |%s| %lld/%lld [%02d:%02d<%02d:%02d, loss=%.4g, %.0f tokens/s, "
                         "mfu %.1f %%]",
                         100.0 * share, bar, (long long)m->step, (long long)m->steps,
                         (int)(m->elapsed_s / 60.0), (int)m->elapsed_s % 60, (int)(left_s / 60.0),
                         (int)left_s % 60, m->loss, m->tokens_per_s, 100.0 * m->mfu);
    }
}
