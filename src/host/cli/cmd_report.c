/* cmd_report.c - csplade report: curves, a table, and explained vectors as one HTML file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "cli/commands.h"
#include "cli/model_args.h"
#include "core/memory.h"
#include "export/report_html.h"
#include "io/file.h"
#include "io/lines.h"

static const csp_option options[] = {
    { .name = "output",
      .letter = 'o',
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .required = true,
      .help = "the HTML file to write" },
    { .name = "title",
      .kind = CSP_OPTION_TEXT,
      .value = "TEXT",
      .standard = "csplade report",
      .help = "its title" },
    { .name = "run",
      .kind = CSP_OPTION_LIST,
      .value = "NAME=DIR",
      .help = "a run folder whose metrics.jsonl is drawn" },
    { .name = "table",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .help = "JSON: {\"columns\": [...], \"rows\": [[...], ...], \"notes\": [...]}, all texts" },
    { .name = "model",
      .letter = 'm',
      .kind = CSP_OPTION_TEXT,
      .value = "DIR|CHECKPOINT",
      .help = "the model that explains --query and --document" },
    { .name = "query", .kind = CSP_OPTION_LIST, .value = "TEXT", .help = "a query to explain" },
    { .name = "document",
      .kind = CSP_OPTION_LIST,
      .value = "TEXT",
      .help = "a document to explain" },
    { .name = "terms",
      .kind = CSP_OPTION_I64,
      .value = "N",
      .standard = "24",
      .min = 1,
      .max = 1000,
      .help = "strongest terms shown of a vector" },
    { .name = "notice",
      .kind = CSP_OPTION_TEXT,
      .value = "FILE",
      .help = "a text to print at the end: a licence's notice" },
    CSP_MODEL_OPTIONS,
};

/* One key of one run, over its steps. */
typedef struct series {
    double *x, *y;
    int64_t count, room;
} series;

static csp_status series_add(series *s, double x, double y)
{
    if (s->count == s->room) {
        const int64_t room = s->room > 0 ? 2 * s->room : 512;

        CSP_TRY(csp_realloc("report", room, sizeof(double), &s->x));
        CSP_TRY(csp_realloc("report", room, sizeof(double), &s->y));
        s->room = room;
    }
    s->x[s->count] = x;
    s->y[s->count++] = y;
    return CSP_OK;
}

/* What is drawn: one chart a row; curves are all runs that have the key. */
typedef struct chart {
    const char *key, *title;
    bool log_y;
} chart;

static const chart charts[] = {
    { "clm", "Adaptation: cross-entropy of plain logits (nats a token)", false },
    { "relu", "Adaptation: cross-entropy of log-saturated logits (nats a token)", false },
    { "nce", "InfoNCE (nats a query)", false },
    { "accuracy", "Queries whose document is best in the batch (share)", false },
    { "active_d", "Terms a document", true },
    { "active_q", "Terms a query", true },
    { "mfu", "Arithmetic the step needs by the rate of a large matrix product (share)", false },
    { "eval/nDCG@10", "nDCG@10 on the dev queries", false },
};

/* Steps of all phases of a run on one axis. */
static csp_status read_series(const char *dir, const char *key, series *out)
{
    csp_lines *lines = NULL;
    char *path = NULL, *line, phase[64] = "";
    int64_t bytes;
    double base = 0.0, last = 0.0;
    csp_status status;

    CSP_TRY(csp_file_join(dir, "metrics.jsonl", &path));
    CSP_TRY_GOTO(csp_lines_open(path, &lines));
    for (;;) {
        json_t *object;
        const json_t *value;
        const char *name;

        CSP_TRY_GOTO(csp_lines_next(lines, &line, &bytes));
        if (line == NULL) {
            break;
        }
        object = json_loadb(line, (size_t)bytes, 0, NULL);
        name = json_string_value(json_object_get(object, "phase"));
        if (name == NULL) {
            json_decref(object);
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: not a line of metrics", path,
                              (long long)csp_lines_number(lines));
            goto fail;
        }
        if (strcmp(name, phase) != 0) {
            snprintf(phase, sizeof(phase), "%s", name);
            base += last;
        }
        value = json_object_get(object, "step");
        if (!json_is_integer(value)) {
            json_decref(object);
            status = CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: step is missing or not a whole number",
                              path, (long long)csp_lines_number(lines));
            goto fail;
        }
        last = (double)json_integer_value(value);
        value = json_object_get(object, key);
        status =
            json_is_number(value) ? series_add(out, base + last, json_number_value(value)) : CSP_OK;
        json_decref(object);
        CSP_TRY_GOTO(status);
    }

fail:
    csp_lines_close(lines);
    free(path);
    return status;
}

/* One chart of all runs; nothing where no run has the key. */
static csp_status draw_chart(const csp_arguments *args, FILE *out, const chart *c)
{
    const int runs = csp_args_list_count(args, "run");
    series *all = NULL;
    csp_curve *curves = NULL;
    char **names = NULL;
    int64_t count = 0;
    csp_status status;

    CSP_TRY_GOTO(csp_alloc_zero("report", runs, sizeof(*all), &all));
    CSP_TRY_GOTO(csp_alloc_zero("report", runs, sizeof(*curves), &curves));
    CSP_TRY_GOTO(csp_alloc_zero("report", runs, sizeof(*names), &names));
    for (int i = 0; i < runs; i++) {
        const char *word = csp_args_list_at(args, "run", i), *equals = strchr(word, '=');

        if (equals == NULL) {
            status = CSP_FAIL(CSP_ERR_CONFIG, "--run %s: must be NAME=DIR", word);
            goto fail;
        }
        CSP_TRY_GOTO(csp_strdup("report", word, &names[i]));
        names[i][equals - word] = '\0';
        CSP_TRY_GOTO(read_series(equals + 1, c->key, &all[i]));
        if (all[i].count > 0) {
            curves[count++] = (csp_curve) { names[i], all[i].x, all[i].y, all[i].count };
        }
    }
    if (count > 0) {
        csp_html_chart(out, c->title, "optimizer steps", curves, count, c->log_y);
    }

fail:
    for (int i = 0; all != NULL && i < runs; i++) {
        free(all[i].x);
        free(all[i].y);
    }
    for (int i = 0; names != NULL && i < runs; i++) {
        free(names[i]);
    }
    free(all);
    free(curves);
    free(names);
    return status;
}

/* Members of a table: lists, rows as long as the columns, and nothing that would be left out. */
static csp_status check_table(const char *path, json_t *root)
{
    const json_t *rows = json_object_get(root, "rows"), *notes = json_object_get(root, "notes");
    const size_t width = json_array_size(json_object_get(root, "columns"));
    const char *key;
    json_t *value;

    json_object_foreach(root, key, value)
    {
        if (strcmp(key, "columns") != 0 && strcmp(key, "rows") != 0 && strcmp(key, "notes") != 0) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"%.60s\" is none of columns, rows, notes", path,
                            key);
        }
    }
    if (!json_is_array(rows) || (notes != NULL && !json_is_array(notes))) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s: \"rows\" is missing, or it or \"notes\" is no list",
                        path);
    }
    for (size_t i = 0; i < json_array_size(rows); i++) {
        if (json_array_size(json_array_get(rows, i)) != width) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: row %zu has %zu cells, the columns are %zu", path,
                            i + 1, json_array_size(json_array_get(rows, i)), width);
        }
    }
    for (size_t i = 0; i < json_array_size(notes); i++) {
        if (!json_is_string(json_array_get(notes, i))) {
            return CSP_FAIL(CSP_ERR_FORMAT, "%s: note %zu is not a text", path, i + 1);
        }
    }
    return CSP_OK;
}

/* Checks a table and writes it with its notes. */
static csp_status draw_table(const char *path, FILE *out)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    const json_t *columns = json_object_get(root, "columns"), *rows = json_object_get(root, "rows");
    const json_t *notes = json_object_get(root, "notes");
    const size_t width = json_array_size(columns), height = json_array_size(rows);
    const char **cells = NULL;
    csp_status status;

    if (root == NULL || width == 0) {
        status = CSP_FAIL(CSP_ERR_FORMAT, "%s: not a table: %s", path,
                          root == NULL ? error.text : "\"columns\" is missing or empty");
        goto fail;
    }
    CSP_TRY_GOTO(check_table(path, root));
    CSP_TRY_GOTO(csp_alloc("report", (int64_t)(width * (height + 1)), sizeof(*cells), &cells));
    for (size_t i = 0; i <= height; i++) {
        const json_t *row = i == 0 ? columns : json_array_get(rows, i - 1);

        for (size_t j = 0; j < width; j++) {
            cells[i * width + j] = json_string_value(json_array_get(row, j));
            if (cells[i * width + j] == NULL) {
                status =
                    CSP_FAIL(CSP_ERR_FORMAT, "%s: row %zu, column %zu is not a text", path, i, j);
                goto fail;
            }
        }
    }
    csp_html_table(out, cells, (int64_t)height + 1, (int64_t)width);
    for (size_t i = 0; i < json_array_size(notes); i++) {
        csp_html_paragraph(out, json_string_value(json_array_get(notes, i)));
    }
    status = CSP_OK;

fail:
    free(cells);
    json_decref(root);
    return status;
}

/* A vector that comes out of the encoder, and the text it is of. */
typedef struct explained {
    csp_inference *inference;
    FILE *out;
    csp_side side;
    const char *text;
    int64_t terms;
} explained;

/* Whether a term is one of the text's own tokens. */
static bool is_own(const csp_token_list *ids, int32_t term)
{
    for (int64_t i = 0; i < ids->count; i++) {
        if (ids->ids[i] == term) {
            return true;
        }
    }
    return false;
}

typedef struct ranked {
    int32_t term;
    float weight;
} ranked;

static int by_weight(const void *a, const void *b)
{
    const ranked *x = a, *y = b;

    return (x->weight < y->weight) - (x->weight > y->weight);
}

static csp_status show(explained *e, const csp_token_list *ids, const ranked *list, int64_t nnz)
{
    const int64_t count = nnz < e->terms ? nnz : e->terms;
    csp_explained_term *terms = NULL;
    csp_status status;

    CSP_TRY(csp_alloc_zero("report", count, sizeof(*terms), &terms));
    status = CSP_OK;
    for (int64_t i = 0; i < count && status == CSP_OK; i++) {
        char *text;
        int64_t bytes;

        status = csp_tokenizer_decode(e->inference->tokenizer, &list[i].term, 1, &text, &bytes);
        if (status == CSP_OK) {
            terms[i] =
                (csp_explained_term) { text, (double)list[i].weight, is_own(ids, list[i].term) };
        }
    }
    if (status == CSP_OK) {
        csp_html_explained(e->out, e->side == CSP_SIDE_QUERY ? "query" : "document", e->text, terms,
                           count, nnz);
    }
    for (int64_t i = 0; i < count; i++) {
        free((void *)(uintptr_t)terms[i].text);
    }
    free(terms);
    return status;
}

static csp_status explain_row(void *context, const char *id, int64_t nnz, const int32_t *term,
                              const float *weight)
{
    explained *e = context;
    csp_text_encoder *encoder = NULL;
    csp_token_list ids = { 0 };
    ranked *list = NULL;
    csp_status status;

    (void)id;
    CSP_TRY_GOTO(csp_text_encoder_create(&e->inference->opened.contract, e->inference->tokenizer,
                                         false, &encoder));
    CSP_TRY_GOTO(csp_text_encode(encoder, e->side, NULL, e->text, (int64_t)strlen(e->text), &ids));
    CSP_TRY_GOTO(csp_alloc("report", nnz, sizeof(*list), &list));
    for (int64_t i = 0; i < nnz; i++) {
        list[i] = (ranked) { term[i], weight[i] };
    }
    qsort(list, (size_t)nnz, sizeof(*list), by_weight);
    status = show(e, &ids, list, nnz);

fail:
    free(list);
    csp_token_list_clear(&ids);
    csp_text_encoder_destroy(encoder);
    return status;
}

static csp_status explain_all(const csp_arguments *args, csp_inference *inference, csp_side side,
                              FILE *out)
{
    const char *option = side == CSP_SIDE_QUERY ? "query" : "document";
    explained e = { inference, out, side, NULL, csp_args_i64(args, "terms") };

    csp_encoder_target(inference->encoder, side, explain_row, &e);
    for (int i = 0; i < csp_args_list_count(args, option); i++) {
        e.text = csp_args_list_at(args, option, i);
        CSP_TRY(csp_encoder_add(inference->encoder, option, e.text, (int64_t)strlen(e.text)));
        CSP_TRY(csp_encoder_flush(inference->encoder));
    }
    return CSP_OK;
}

static csp_status write_vectors(const csp_arguments *args, FILE *out)
{
    const csp_quant none = { CSP_QUANT_NONE, 0.0 };
    csp_inference inference;
    csp_status status;

    if (!csp_args_given(args, "model")) {
        return csp_args_list_count(args, "query") + csp_args_list_count(args, "document") == 0
                   ? CSP_OK
                   : CSP_FAIL(CSP_ERR_CONFIG, "report: --query and --document need --model");
    }
    CSP_TRY(csp_inference_open(args, CSP_SIDE_QUERY, none, &inference));
    csp_html_heading(out, "What the vectors hold");
    CSP_TRY_GOTO(explain_all(args, &inference, CSP_SIDE_QUERY, out));
    status = explain_all(args, &inference, CSP_SIDE_PASSAGE, out);

fail:
    csp_inference_close(&inference);
    return status;
}

static csp_status write_notice(const csp_arguments *args, FILE *out)
{
    char *text = NULL;
    int64_t bytes;

    if (!csp_args_given(args, "notice")) {
        return CSP_OK;
    }
    CSP_TRY(csp_file_read(csp_args_text(args, "notice"), 1 << 24, &text, &bytes));
    csp_html_heading(out, "Notice");
    csp_html_preformatted(out, text);
    free(text);
    return CSP_OK;
}

static csp_status write_page(const csp_arguments *args, FILE *out)
{
    csp_html_begin(out, csp_args_text(args, "title"));
    if (csp_args_given(args, "table")) {
        CSP_TRY(draw_table(csp_args_text(args, "table"), out));
    }
    if (csp_args_list_count(args, "run") > 0) {
        csp_html_heading(out, "Curves");
        for (int i = 0; i < CSP_COUNT(charts); i++) {
            CSP_TRY(draw_chart(args, out, &charts[i]));
        }
    }
    CSP_TRY(write_vectors(args, out));
    CSP_TRY(write_notice(args, out));
    csp_html_end(out);
    return CSP_OK;
}

static csp_status run(const csp_arguments *args)
{
    csp_file *file = NULL;
    csp_status status;

    CSP_TRY(csp_file_create(csp_args_text(args, "output"), &file));
    status = write_page(args, csp_file_stream(file));
    if (status != CSP_OK) {
        csp_file_abandon(file);
        return status;
    }
    CSP_TRY(csp_file_commit(file));
    printf("%s\n", csp_args_text(args, "output"));
    return CSP_OK;
}

const csp_command csp_cmd_report = {
    .name = "report",
    .summary = "a run's curves, a table and explained vectors as one HTML file",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "",
    .details =
        "csplade report --run mine=runs/a --model runs/a/checkpoints/contrastive-00000500.h5 "
        "\\\n    --query \"a person who studies the stars\" --output report.html",
    .run = run,
};
