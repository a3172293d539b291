/* encode_file.c - parts of PART_ROWS texts, each final when it is complete, joined at the end. */
#include "eval/encode_file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "core/log.h"
#include "core/machine.h"
#include "core/memory.h"
#include "data/corpus.h"
#include "io/file.h"

enum { PART_ROWS = 8192, NAME_BYTES = 32, PLAN_LIMIT = 1 << 24 };

typedef struct part_state {
    const csp_encode_file_options *options;
    csp_encode_file_report *report;
    csp_vectors_head head; /* of parts; of the output but for meta, which says more of a shard */
    char *folder;          /* OUTPUT.parts */
    csp_file_lock *lock;
    uint64_t texts_hash;        /* of all ids and texts of the input */
    int64_t first, last;        /* rows of the input that are this shard's */
    csp_vectors_writer *writer; /* of the part or output being written */
    int64_t terms;
} part_state;

static const char *side_name(csp_side side)
{
    return side == CSP_SIDE_QUERY ? "query" : "document";
}

static csp_status open_texts(const csp_encode_file_options *o, bool ids, csp_texts **out)
{
    const csp_texts_options options = {
        .side = o->side, .strict = o->strict, .without_ids = !ids, .separator = o->separator
    };

    return csp_texts_open(o->input, &options, out);
}

/* Counts the texts, and hashes them: parts of other texts must not be taken for ours. */
static csp_status count_texts(const csp_encode_file_options *o, int64_t *count, uint64_t *hash)
{
    csp_texts *texts = NULL;
    csp_text_row row;
    uint64_t sum = 0;
    csp_status status;

    CSP_TRY(open_texts(o, true, &texts));
    for (;;) {
        CSP_TRY_GOTO(csp_texts_next(texts, &row));
        if (row.text == NULL) {
            break;
        }
        sum = XXH3_64bits_withSeed(row.id, strlen(row.id), sum);
        sum = XXH3_64bits_withSeed(row.text, (size_t)row.bytes, sum);
    }
    *count = csp_texts_count(texts);
    *hash = sum;

fail:
    csp_texts_close(texts);
    return status;
}

static csp_status part_path(const part_state *p, int64_t part, char **out)
{
    char name[NAME_BYTES];

    snprintf(name, sizeof(name), "part-%05lld.h5", (long long)part);
    return csp_file_join(p->folder, name, out);
}

/* Removes what this program puts into the folder, but for the lock. */
static csp_status empty_folder(const part_state *p)
{
    DIR *folder = opendir(p->folder);
    csp_status status = CSP_OK;

    if (folder == NULL) {
        return CSP_OK;
    }
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        char *path = NULL;

        if (strncmp(entry->d_name, "part-", 5) != 0 &&
            strncmp(entry->d_name, "plan.json", 9) != 0) {
            continue;
        }
        CSP_TRY_GOTO(csp_file_join(p->folder, entry->d_name, &path));
        if (unlink(path) != 0) {
            csp_log(CSP_LOG_WARN, "encode", "%s: cannot be removed: %s", path, strerror(errno));
        }
        free(path);
    }

fail:
    closedir(folder);
    return status;
}

/* The folder itself, when the output is there. */
static csp_status remove_folder(part_state *p)
{
    char *path = NULL;

    CSP_TRY(empty_folder(p));
    CSP_TRY(csp_file_join(p->folder, "lock", &path));
    (void)unlink(path);
    free(path);
    if (rmdir(p->folder) != 0 && errno != ENOENT) {
        csp_log(CSP_LOG_WARN, "encode", "%s: cannot be removed: %s", p->folder, strerror(errno));
    }
    return CSP_OK;
}

static csp_status take_folder(part_state *p)
{
    char *path = NULL;
    csp_status status;

    CSP_TRY(csp_file_make_dirs(p->folder));
    CSP_TRY_GOTO(csp_file_join(p->folder, "lock", &path));
    CSP_TRY_GOTO(csp_file_lock_take(path, &p->lock));
    csp_file_remove_leftovers(p->folder);

fail:
    free(path);
    return status;
}

static csp_status plan_text(const part_state *p, const csp_encoder *encoder, char **out)
{
    const csp_encode_file_options *o = p->options;
    char quant[48];
    size_t size = 0;
    FILE *stream = open_memstream(out, &size);
    int64_t max_rows;
    int threads;

    if (stream == NULL) {
        return CSP_FAIL(CSP_ERR_MEMORY, "encode: no memory");
    }
    csp_encoder_bits(encoder, &threads, &max_rows);
    fprintf(stream,
            "{\"first\": %lld, \"last\": %lld, \"part_rows\": %d, \"threads\": %d, "
            "\"micro_batch_tokens\": %lld, \"texts\": \"%016llx\", \"quant\": \"%s\", "
            "\"meta\": %s}\n",
            (long long)p->first, (long long)p->last, PART_ROWS, threads, (long long)max_rows,
            (unsigned long long)p->texts_hash, csp_quant_describe(&o->quant, quant, sizeof(quant)),
            o->meta);
    if (fclose(stream) != 0) {
        free(*out);
        *out = NULL;
        return CSP_FAIL(CSP_ERR_MEMORY, "encode: no memory");
    }
    return CSP_OK;
}

/* Makes the folder belong to this plan; parts of another one are removed. */
static csp_status settle_plan(const part_state *p, const csp_encoder *encoder)
{
    char *path = NULL, *old = NULL, *plan = NULL;
    int64_t bytes;
    csp_status status;

    CSP_TRY_GOTO(plan_text(p, encoder, &plan));
    CSP_TRY_GOTO(csp_file_join(p->folder, "plan.json", &path));
    if (csp_file_exists(path)) {
        CSP_TRY_GOTO(csp_file_read(path, PLAN_LIMIT, &old, &bytes));
        if (strcmp(old, plan) == 0) {
            goto fail;
        }
        csp_log(CSP_LOG_WARN, "encode", "%s holds parts of another encoding: begun anew",
                p->folder);
    }
    CSP_TRY_GOTO(empty_folder(p));
    status = csp_file_write(path, plan, (int64_t)strlen(plan));

fail:
    free(path);
    free(old);
    free(plan);
    return status;
}

static csp_status count_row(part_state *p, int64_t nnz)
{
    p->report->rows++;
    p->report->empty += nnz == 0;
    p->terms += nnz;
    return CSP_OK;
}

/* Adds what quantisation counted, of a part that is done or that was just encoded. */
static void count_quantised(part_state *p, const csp_quant_counts *counts)
{
    p->report->quantised.dropped += counts->dropped;
    p->report->quantised.clipped += counts->clipped;
}

static csp_status write_row(void *context, const char *id, int64_t nnz, const int32_t *term,
                            const float *weight)
{
    part_state *p = context;

    return csp_vectors_append(p->writer, id, nnz, term, weight);
}

/* Whether a part is there and whole; what its quantisation counted is added then. */
static bool part_is_done(part_state *p, int64_t part, int64_t rows)
{
    csp_vectors *vectors = NULL;
    char *path = NULL;
    bool done = false;

    if (part_path(p, part, &path) == CSP_OK && csp_file_exists(path) &&
        csp_vectors_read(path, &vectors) == CSP_OK) {
        done = vectors->rows == rows;
        if (done) {
            count_quantised(p, &vectors->counts);
        }
    }
    csp_vectors_free(vectors);
    free(path);
    return done;
}

/* Ends a part; before is what the encoder had counted when it began. */
static csp_status finish_part(part_state *p, csp_encoder *encoder, csp_quant_counts before)
{
    csp_vectors_writer *writer = p->writer;
    csp_quant_counts counts;

    CSP_TRY(csp_encoder_flush(encoder));
    counts = *csp_encoder_quant_counts(encoder);
    counts.dropped -= before.dropped;
    counts.clipped -= before.clipped;
    csp_vectors_count(writer, &counts);
    p->writer = NULL;
    CSP_TRY(csp_vectors_commit(writer));
    count_quantised(p, &counts);
    return CSP_OK;
}

/* Encodes the next `rows` texts into one part, or passes over them where the part is done. */
static csp_status do_part(part_state *p, csp_encoder *encoder, csp_texts *texts, int64_t part,
                          int64_t rows)
{
    const csp_encode_file_options *o = p->options;
    const bool done = part_is_done(p, part, rows);
    const csp_quant_counts before = *csp_encoder_quant_counts(encoder);
    const double start = csp_machine_seconds();
    char *path = NULL;
    csp_text_row row;
    csp_status status = CSP_OK;

    if (!done) {
        CSP_TRY_GOTO(part_path(p, part, &path));
        CSP_TRY_GOTO(csp_vectors_create(path, &p->head, &p->writer));
        csp_encoder_target(encoder, o->side, write_row, p);
    }
    for (int64_t i = 0; i < rows; i++) {
        CSP_TRY_GOTO(csp_texts_next(texts, &row));
        if (row.text == NULL) {
            status = CSP_FAIL(CSP_ERR_DATA, "%s: became shorter while it was read", o->input);
            goto fail;
        }
        if (!done) {
            CSP_TRY_GOTO(csp_encoder_add(encoder, row.id, row.text, row.bytes));
            if (i % 256 == 255) {
                const int64_t at = part * PART_ROWS + i + 1, all = p->last - p->first;

                csp_log_progress("%3.0f%% encoded %lld of %lld texts",
                                 100.0 * (double)at / (double)all, (long long)at, (long long)all);
            }
        }
    }
    if (done) {
        p->report->reused += rows;
        goto fail;
    }
    CSP_TRY_GOTO(finish_part(p, encoder, before));
    p->report->seconds += csp_machine_seconds() - start;

fail:
    csp_vectors_abandon(p->writer);
    p->writer = NULL;
    free(path);
    return status;
}

static csp_status append_part(part_state *p, int64_t part)
{
    csp_vectors *v = NULL;
    char *path = NULL;
    csp_status status;

    CSP_TRY(part_path(p, part, &path));
    CSP_TRY_GOTO(csp_vectors_read(path, &v));
    for (int64_t i = 0; i < v->rows; i++) {
        const int64_t at = v->row_ptr[i], nnz = v->row_ptr[i + 1] - at;

        CSP_TRY_GOTO(csp_vectors_append(p->writer, v->ids[i], nnz, v->term + at, v->weight + at));
        CSP_TRY_GOTO(count_row(p, nnz));
    }

fail:
    csp_vectors_free(v);
    free(path);
    return status;
}

/* The meta of the output; a shard's says besides which rows it has: eval/merge.h. */
static csp_status output_meta(const part_state *p, int64_t total, char **out)
{
    const char *meta = p->options->meta;
    const int64_t bytes = (int64_t)strlen(meta) + 160;

    CSP_TRY(csp_alloc("encode", bytes, 1, out));
    if (p->options->shards == 1) {
        snprintf(*out, (size_t)bytes, "%s", meta);
    } else {
        snprintf(*out, (size_t)bytes,
                 "%.*s,\"part\":{\"first\":%lld,\"last\":%lld,\"of\":%lld,\"texts\":\"%016llx\"}}",
                 (int)strlen(meta) - 1, meta, (long long)p->first, (long long)p->last,
                 (long long)total, (unsigned long long)p->texts_hash);
    }
    return CSP_OK;
}

/* Parts become the output. */
static csp_status join_parts(part_state *p, int64_t parts, int64_t total)
{
    csp_vectors_head head = p->head;
    char *meta = NULL;
    csp_status status;

    CSP_TRY_GOTO(output_meta(p, total, &meta));
    head.meta = meta;
    CSP_TRY_GOTO(csp_vectors_create(p->options->output, &head, &p->writer));
    csp_vectors_count(p->writer, &p->report->quantised);
    for (int64_t i = 0; i < parts; i++) {
        CSP_TRY_GOTO(append_part(p, i));
    }
    status = csp_vectors_commit(p->writer);
    p->writer = NULL;
    if (status == CSP_OK) {
        status = remove_folder(p);
    }

fail:
    csp_vectors_abandon(p->writer);
    p->writer = NULL;
    free(meta);
    return status;
}

/* Passes over the texts of earlier shards. */
static csp_status skip(csp_texts *texts, int64_t count)
{
    csp_text_row row;

    for (int64_t i = 0; i < count; i++) {
        CSP_TRY(csp_texts_next(texts, &row));
    }
    return CSP_OK;
}

csp_status csp_encode_file(csp_encoder *encoder, const csp_encode_file_options *o,
                           csp_encode_file_report *report)
{
    part_state p = { .options = o, .report = report };
    csp_texts *texts = NULL;
    int64_t total, parts;
    csp_status status;

    memset(report, 0, sizeof(*report));
    p.head = (csp_vectors_head) { o->vocab, side_name(o->side), o->meta, o->quant };
    if (strcmp(o->input, "-") == 0) {
        return CSP_FAIL(CSP_ERR_CONFIG, "encode: standard input cannot be read twice: give a file");
    }
    CSP_TRY(count_texts(o, &total, &p.texts_hash));
    p.first = total / o->shards * o->shard + total % o->shards * o->shard / o->shards;
    p.last = total / o->shards * (o->shard + 1) + total % o->shards * (o->shard + 1) / o->shards;
    parts = (p.last - p.first + PART_ROWS - 1) / PART_ROWS;
    CSP_TRY(csp_alloc("encode", (int64_t)strlen(o->output) + 8, 1, &p.folder));
    snprintf(p.folder, strlen(o->output) + 8, "%s.parts", o->output);
    CSP_TRY_GOTO(take_folder(&p));
    CSP_TRY_GOTO(settle_plan(&p, encoder));
    CSP_TRY_GOTO(open_texts(o, true, &texts));
    CSP_TRY_GOTO(skip(texts, p.first));
    for (int64_t i = 0; i < parts; i++) {
        const int64_t left = p.last - p.first - i * PART_ROWS;

        CSP_TRY_GOTO(do_part(&p, encoder, texts, i, left < PART_ROWS ? left : PART_ROWS));
    }
    CSP_TRY_GOTO(join_parts(&p, parts, total));
    report->mean_terms = report->rows > 0 ? (double)p.terms / (double)report->rows : 0.0;
    report->token_rows = csp_encoder_rows(encoder);

fail:
    csp_log_progress(NULL);
    csp_texts_close(texts);
    csp_file_lock_release(p.lock);
    free(p.folder);
    return status;
}
