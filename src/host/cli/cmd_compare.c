/*
 * cmd_compare.c - csplade compare: a row for each run folder, of the settings in which they differ
 * and of what metrics.jsonl says: the best evaluation, sparsity, time and memory.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/commands.h"
#include "config/yaml.h"
#include "core/log.h"
#include "core/memory.h"
#include "io/file.h"
#include "io/lines.h"

static const csp_option options[] = {
    { .name = "measure",
      .letter = 'm',
      .kind = CSP_OPTION_ENUM,
      .value = "nDCG@10|RR@10|R@100|AP",
      .standard = "nDCG@10",
      .help = "by which a run's best evaluation is chosen" },
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_ENUM,
      .value = "text|tsv|json",
      .standard = "text",
      .help = "form of the result on stdout" },
};

/* The columns of numbers; the first ones are of an evaluation, under "eval/" there. */
enum {
    NDCG,
    RR,
    RECALL,
    AP,
    ACTIVE_Q,
    ACTIVE_D,
    INDEX_FLOPS,
    STEPS,
    TOKENS,
    TRAIN_S,
    PEAK_MB,
    COLUMNS
};

static const char *const column_name[COLUMNS] = { "nDCG@10",  "RR@10",    "R@100",       "AP",
                                                  "active_q", "active_d", "index_flops", "steps",
                                                  "tokens",   "train_s",  "peak_mb" };
static const int digits[COLUMNS] = { 4, 4, 4, 4, 1, 1, 3, 0, 0, 0, 0 };

enum { PHASE_BYTES = 32 };

typedef struct one_run {
    char *name;
    const char *dir; /* of the command line */
    csp_yaml *config;
    char phase[PHASE_BYTES]; /* of the evaluation shown, else of the last step */
    int64_t step;
    double value[COLUMNS]; /* NaN: not known */
} one_run;

/* A key in which runs differ. */
typedef struct difference {
    const char **key; /* [count] of the configs */
    int64_t count, room;
} difference;

/* NAME=DIR where equals is given, else a folder that is called by its last part. */
static csp_status name_run(const char *word, const char *equals, one_run *run)
{
    const char *first;
    size_t bytes;

    run->dir = equals != NULL ? equals + 1 : word;
    bytes = strlen(word);
    while (bytes > 1 && word[bytes - 1] == '/') {
        bytes--;
    }
    first = equals != NULL ? word : word + bytes;
    while (equals == NULL && first > word && first[-1] != '/') {
        first--;
    }
    bytes = equals != NULL ? (size_t)(equals - word) : (size_t)(word + bytes - first);
    CSP_TRY(csp_alloc("compare", (int64_t)bytes + 1, 1, &run->name));
    memcpy(run->name, first, bytes);
    run->name[bytes] = '\0';
    return CSP_OK;
}

static double number_of(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);

    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* An evaluation's line, kept where it is the best so far, with the step before it. */
static void see_evaluation(one_run *run, const json_t *line, int by, const one_run *last)
{
    char key[PHASE_BYTES];
    double value[ACTIVE_D + 1];

    for (int c = NDCG; c <= ACTIVE_D; c++) {
        (void)snprintf(key, sizeof(key), "eval/%s", column_name[c]);
        value[c] = number_of(line, key);
    }
    if (!(value[by] > run->value[by]) && !isnan(run->value[by])) {
        return;
    }
    memcpy(run->value, value, sizeof(value));
    run->value[INDEX_FLOPS] = last->value[INDEX_FLOPS];
    memcpy(run->phase, last->phase, sizeof(run->phase));
    run->step = last->step;
}

/* A step's line: sums over the run, and what the last step alone says. */
static void see_step(one_run *run, const json_t *line, one_run *last)
{
    const double tokens = number_of(line, "tokens"), rate = number_of(line, "tokens_per_s");
    const double peak = number_of(line, "peak_mb");

    last->value[ACTIVE_Q] = number_of(line, "active_q");
    last->value[ACTIVE_D] = number_of(line, "active_d");
    last->value[INDEX_FLOPS] = number_of(line, "index_flops");
    run->value[STEPS] += 1.0;
    run->value[TOKENS] += tokens > 0.0 ? tokens : 0.0;
    run->value[TRAIN_S] += tokens > 0.0 && rate > 0.0 ? tokens / rate : 0.0;
    run->value[PEAK_MB] = fmax(run->value[PEAK_MB], peak);
}

static csp_status see_line(one_run *run, const json_t *line, const char *path, int64_t number,
                           int by, one_run *last)
{
    const char *phase = json_string_value(json_object_get(line, "phase"));
    const double step = number_of(line, "step");

    if (phase == NULL || !(step >= 0.0)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: not a line of metrics", path, (long long)number);
    }
    (void)snprintf(last->phase, sizeof(last->phase), "%s", phase);
    last->step = (int64_t)step;
    if (json_object_get(line, "eval/nDCG@10") != NULL) {
        see_evaluation(run, line, by, last);
    } else {
        see_step(run, line, last);
    }
    return CSP_OK;
}

static csp_status read_metrics(one_run *run, int by)
{
    one_run last = { .step = 0 };
    csp_lines *lines = NULL;
    char *path = NULL, *text;
    int64_t bytes;
    csp_status status;

    for (int c = 0; c < COLUMNS; c++) {
        run->value[c] = c == STEPS || c == TOKENS || c == TRAIN_S ? 0.0 : NAN;
    }
    CSP_TRY(csp_file_join(run->dir, "metrics.jsonl", &path));
    CSP_TRY_GOTO(csp_lines_open(path, &lines));
    for (;;) {
        json_t *line;

        CSP_TRY_GOTO(csp_lines_next(lines, &text, &bytes));
        if (text == NULL) {
            break;
        }
        line = json_loadb(text, (size_t)bytes, 0, NULL);
        status = see_line(run, line, path, csp_lines_number(lines), by, &last);
        json_decref(line);
        CSP_TRY_GOTO(status);
    }
    if (isnan(run->value[by])) { /* never evaluated: the last step is what there is */
        memcpy(run->phase, last.phase, sizeof(run->phase));
        run->step = last.step;
        memcpy(&run->value[ACTIVE_Q], &last.value[ACTIVE_Q], 3 * sizeof(double));
    }

fail:
    csp_lines_close(lines);
    free(path);
    return status;
}

/* Whether a folder has what every run writes at its start. */
static csp_status is_run(const char *dir, bool *out)
{
    static const char *const files[] = { "config.yaml", "metrics.jsonl" };

    *out = true;
    for (int i = 0; i < CSP_COUNT(files) && *out; i++) {
        char *path;

        CSP_TRY(csp_file_join(dir, files[i], &path));
        *out = csp_file_exists(path);
        free(path);
    }
    return CSP_OK;
}

/* Adds a row, or leaves out what is no run: a pattern of the shell may catch more. */
static csp_status read_run(const char *word, int by, one_run *run, int *runs)
{
    const char *equals;
    char *path = NULL;
    bool begun;
    csp_status status;

    CSP_TRY(is_run(word, &begun));
    equals = begun ? NULL : strchr(word, '='); /* a folder may be called lr=1e-4 */
    CSP_TRY(name_run(word, equals, run));
    CSP_TRY(equals != NULL ? is_run(run->dir, &begun) : CSP_OK);
    if (!begun) {
        csp_log(CSP_LOG_WARN, "compare",
                "%s: left out: not the folder of a run that has begun (config.yaml and "
                "metrics.jsonl)",
                run->dir);
        free(run->name);
        run->name = NULL;
        return CSP_OK;
    }
    CSP_TRY(csp_file_join(run->dir, "config.yaml", &path));
    status = csp_yaml_read(path, &run->config);
    free(path);
    CSP_TRY(status);
    CSP_TRY(read_metrics(run, by));
    (*runs)++;
    return CSP_OK;
}

static const csp_yaml_entry *entry_of(const one_run *run, const char *key)
{
    for (int64_t i = 0; i < run->config->count; i++) {
        if (strcmp(run->config->entries[i].key, key) == 0) {
            return &run->config->entries[i];
        }
    }
    return NULL;
}

static bool is_same(const csp_yaml_entry *a, const csp_yaml_entry *b)
{
    bool same = a->kind == b->kind && a->count == b->count;

    for (int64_t i = 0; same && i < a->count; i++) {
        same = strcmp(a->values[i], b->values[i]) == 0;
    }
    return same;
}

/*
 * Whether runs that have the key differ in it. Of a section that some lack, such as lora, its first
 * line alone tells with from without.
 */
static bool differs(const one_run *run, int runs, const char *key)
{
    const csp_yaml_entry *first = NULL;
    bool lacks = false;

    for (int r = 0; r < runs; r++) {
        const csp_yaml_entry *entry = entry_of(&run[r], key);

        if (entry != NULL && first != NULL && !is_same(first, entry)) {
            return true;
        }
        first = first != NULL ? first : entry;
        lacks = lacks || entry == NULL;
    }
    return lacks && strcmp(key, "lora.r") == 0;
}

static bool is_listed(const difference *d, const char *key)
{
    for (int64_t i = 0; i < d->count; i++) {
        if (strcmp(d->key[i], key) == 0) {
            return true;
        }
    }
    return false;
}

/* Of run what is part of a config's hash: the rest is where a run goes, how often it reports. */
static bool decides(const char *key)
{
    return strncmp(key, "run.", 4) != 0 || strcmp(key, "run.phases") == 0 ||
           strcmp(key, "run.seed") == 0;
}

/* The keys in which runs differ, in the order of the configs. */
static csp_status find_differences(const one_run *run, int runs, difference *d)
{
    for (int r = 0; r < runs; r++) {
        for (int64_t i = 0; i < run[r].config->count; i++) {
            const char *key = run[r].config->entries[i].key;

            if (!decides(key) || is_listed(d, key) || !differs(run, runs, key)) {
                continue;
            }
            if (d->count == d->room) {
                d->room = d->room > 0 ? 2 * d->room : 16;
                CSP_TRY(csp_realloc("compare", d->room, sizeof(*d->key), &d->key));
            }
            d->key[d->count++] = key;
        }
    }
    return CSP_OK;
}

/* A setting as one word or list; "-" where the run does not have it. */
static void say_setting(const one_run *run, const char *key, char *text, size_t size)
{
    const csp_yaml_entry *entry = entry_of(run, key);
    size_t used;

    (void)snprintf(text, size, "%s", entry != NULL && entry->count > 0 ? entry->values[0] : "-");
    used = strlen(text);
    for (int64_t i = 1; entry != NULL && i < entry->count && used + 1 < size; i++) {
        (void)snprintf(text + used, size - used, ",%s", entry->values[i]);
        used = strlen(text);
    }
}

enum { CELL_BYTES = 160, FIRST_COLUMNS = 3 }; /* run, phase, step */

/* Cell (row, column) as text; row -1 is the head. */
static void say_cell(const one_run *run, const difference *d, int row, int64_t column, char *text)
{
    const int64_t setting = column - FIRST_COLUMNS, number = setting - d->count;
    static const char *const first[FIRST_COLUMNS] = { "run", "phase", "step" };

    if (row < 0) {
        (void)snprintf(text, CELL_BYTES, "%s",
                       setting < 0  ? first[column]
                       : number < 0 ? d->key[setting]
                                    : column_name[number]);
    } else if (column == 0) {
        (void)snprintf(text, CELL_BYTES, "%s", run[row].name);
    } else if (column == 1) {
        (void)snprintf(text, CELL_BYTES, "%s", run[row].phase[0] != '\0' ? run[row].phase : "-");
    } else if (column == 2) {
        (void)snprintf(text, CELL_BYTES, "%lld", (long long)run[row].step);
    } else if (number < 0) {
        say_setting(&run[row], d->key[setting], text, CELL_BYTES);
    } else if (isnan(run[row].value[number])) {
        (void)snprintf(text, CELL_BYTES, "-");
    } else {
        (void)snprintf(text, CELL_BYTES, "%.*f", digits[number], run[row].value[number]);
    }
}

/* Rows of equal columns, or parted by tabs. */
static void print_table(const one_run *run, int runs, const difference *d, bool tabs)
{
    const int64_t columns = FIRST_COLUMNS + d->count + COLUMNS;
    char text[CELL_BYTES];

    for (int r = -1; r < runs; r++) {
        for (int64_t c = 0; c < columns; c++) {
            size_t width = 0;

            for (int other = -1; !tabs && other < runs && c + 1 < columns; other++) {
                say_cell(run, d, other, c, text);
                width = strlen(text) > width ? strlen(text) : width;
            }
            say_cell(run, d, r, c, text);
            printf("%-*s%s", (int)width, text, c + 1 == columns ? "\n" : tabs ? "\t" : "  ");
        }
    }
}

/* One object a line; of settings texts, of numbers numbers or null. */
static csp_status print_json(const one_run *run, int runs, const difference *d)
{
    for (int r = 0; r < runs; r++) {
        json_t *object = json_object(), *settings = json_object();
        int failed = json_object_set_new(object, "run", json_string(run[r].name));
        char text[CELL_BYTES];

        failed |= json_object_set_new(object, "phase", json_string(run[r].phase));
        failed |= json_object_set_new(object, "step", json_integer(run[r].step));
        for (int64_t i = 0; i < d->count; i++) {
            say_setting(&run[r], d->key[i], text, sizeof(text));
            failed |= json_object_set_new(settings, d->key[i], json_string(text));
        }
        failed |= json_object_set_new(object, "settings", settings);
        for (int c = 0; c < COLUMNS; c++) {
            const double value = run[r].value[c];

            json_t *number = !isfinite(value)            ? json_null()
                             : c == STEPS || c == TOKENS ? json_integer((json_int_t)value)
                                                         : json_real(value);

            failed |= json_object_set_new(object, column_name[c], number);
        }
        failed |= json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
        json_decref(object);
        if (failed != 0) {
            return CSP_FAIL(CSP_ERR_DATA, "compare: the result could not be written as JSON (no "
                                          "memory, a full disk, or a name that is not UTF-8)");
        }
        fputc('\n', stdout);
    }
    return CSP_OK;
}

static csp_status run(const csp_arguments *args)
{
    const int words = csp_args_positional_count(args);
    const char *form = csp_args_text(args, "output");
    difference d = { .count = 0 };
    one_run *all = NULL;
    int by = 0, runs = 0;
    csp_status status;

    while (strcmp(column_name[by], csp_args_text(args, "measure")) != 0) {
        by++;
    }
    CSP_TRY(csp_alloc_zero("compare", words, sizeof(*all), &all));
    for (int w = 0; w < words; w++) {
        CSP_TRY_GOTO(read_run(csp_args_positional(args, w), by, &all[runs], &runs));
    }
    if (runs == 0) {
        status = CSP_FAIL(CSP_ERR_IO, "compare: none of these is the folder of a run");
        goto fail;
    }
    CSP_TRY_GOTO(find_differences(all, runs, &d));
    if (strcmp(form, "json") == 0) {
        status = print_json(all, runs, &d);
    } else {
        print_table(all, runs, &d, strcmp(form, "tsv") == 0);
        status = CSP_OK;
    }

fail:
    for (int r = 0; r < words; r++) {
        csp_yaml_free(all[r].config);
        free(all[r].name);
    }
    free(all);
    free((void *)d.key);
    return status;
}

const csp_command csp_cmd_compare = {
    .name = "compare",
    .summary = "a table of runs: settings that differ, quality, sparsity, time, memory",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "RUN...",
    .details =
        "RUN is a run's folder or NAME=DIR. A row has the run's best evaluation on its dev "
        "queries\n"
        "(without one, its last step); the terms of a query and a document there, and index_flops\n"
        "of the step before; of the whole run its steps, tokens, seconds of training steps and\n"
        "peak memory. docs/metrics.md says what each is.\n\n"
        "csplade compare run/ablations/*\n"
        "csplade compare base=runs/a bi=runs/b -o tsv > table.tsv",
    .run = run,
};
