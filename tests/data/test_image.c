/*
 * test_image.c - what one rank of a machine reads for all: every rank has what it would have read
 * itself, one opens the files, and all end where that one fails.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "core/fault.h"
#include "core/log.h"
#include "core/shared_memory.h"
#include "data/pairs.h"
#include "data/plain.h"
#include "support/ranks.h"

enum { DOCUMENTS = 1200, QUERIES = 200, LINES = 40, NUMBERS = 700001 };

static char folder[] = "/tmp/csplade-image-XXXXXX";

static const char *at(const char *name)
{
    static char paths[16][300];
    static int next;
    char *path = paths[next++ % 16];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

/* A rank of this machine; all of them know the folder, and rank 0 has made it. */
static csp_status join(double timeout_s, csp_comm **comm, csp_comm **machine)
{
    const csp_comm_options options = { .timeout_s = timeout_s };
    csp_launch launch;

    signal(SIGTERM, SIG_IGN); // mpirun sends it to all as soon as one has failed
    csp_log_set_level(CSP_LOG_NONE);
    CSP_TRY(csp_launch_find(&launch));
    CSP_TRY(csp_comm_create(&launch, &options, comm));
    CSP_TRY(csp_comm_group_local(*comm, machine));
    if (csp_comm_rank(*comm) == 0 && mkdtemp(folder) == NULL) {
        return CSP_FAIL(CSP_ERR_IO, "%s: %s", folder, strerror(errno));
    }
    return csp_comm_broadcast(*comm, folder, sizeof(folder), 0, "the folder");
}

/* By rank 0. */
static int remove_files(csp_comm *comm)
{
    char command[400];

    (void)snprintf(command, sizeof(command), "rm -rf %s", folder);
    RANK_CHECK(csp_comm_rank(comm) != 0 || system(command) == 0);
    return 0;
}

static int leave(csp_comm *comm)
{
    RANK_TRY(csp_comm_barrier(comm, "the end"));
    RANK_CHECK(remove_files(comm) == 0);
    csp_comm_destroy(comm);
    return 0;
}

/* Texts of all lengths, some empty, in plain files or compressed ones ("wbT" writes as it is). */
static int make_beir(const char *name, const char *ending, const char *mode)
{
    char path[300];
    gzFile corpus, queries;
    FILE *qrels, *negatives;

    (void)snprintf(path, sizeof(path), "%s/qrels", at(name));
    RANK_CHECK(mkdir(at(name), 0700) == 0 && mkdir(path, 0700) == 0);
    (void)snprintf(path, sizeof(path), "%s/corpus.jsonl%s", at(name), ending);
    corpus = gzopen(path, mode);
    (void)snprintf(path, sizeof(path), "%s/queries.jsonl%s", at(name), ending);
    queries = gzopen(path, mode);
    (void)snprintf(path, sizeof(path), "%s/qrels/train.tsv", at(name));
    qrels = fopen(path, "w");
    (void)snprintf(path, sizeof(path), "%s/negatives.train.tsv", at(name));
    negatives = fopen(path, "w");
    RANK_CHECK(corpus != NULL && queries != NULL && qrels != NULL && negatives != NULL);
    for (int i = 0; i < DOCUMENTS; i++) {
        gzprintf(corpus, "{\"_id\":\"d%d\",\"title\":\"%d\",\"text\":\"%.*s\"}\n", i * 7, i, i % 31,
                 "the text of some document, cut");
    }
    for (int i = 0; i < QUERIES; i++) {
        gzprintf(queries, "{\"_id\":\"q%d\",\"text\":\"query %d\"}\n", i, i * i);
        fprintf(qrels, "q%d\td%d\t1\nq%d\td%d\t1\n", i, i * 7, i, (i * 13 + 1) % DOCUMENTS * 7);
        fprintf(negatives, "q%d d%d d%d d%d\n", i, (i + 1) * 7, (i + 5) * 7, i * 7);
    }
    RANK_CHECK(gzclose(corpus) == Z_OK && gzclose(queries) == Z_OK);
    RANK_CHECK(fclose(qrels) == 0 && fclose(negatives) == 0);
    return 0;
}

/* Training lines with passages, and with ids. */
static int make_lines(void)
{
    FILE *inside = fopen(at("inside.jsonl"), "w"), *ids = fopen(at("ids.jsonl"), "w");

    RANK_CHECK(inside != NULL && ids != NULL);
    for (int i = 0; i < LINES; i++) {
        fprintf(inside,
                "{\"query_id\":\"q%d\",\"query\":\"words %d\",\"positive_passages\":[{\"docid\":"
                "\"p%d\",\"text\":\"one %d\"}],\"negative_passages\":[{\"docid\":\"n%d\",\"title\":"
                "\"T\",\"text\":\"two\"}]}\n",
                i, i, i, i, i % 7);
        fprintf(ids,
                "{\"query_id\":\"q%d\",\"query\":\"words\",\"positive_document_ids\":[\"d%d\"],"
                "\"negative_document_ids\":[\"d0\",\"d%d\"]}\n",
                i, (i + 1) * 7, (i + 3) * 7);
    }
    RANK_CHECK(fclose(inside) == 0 && fclose(ids) == 0);
    return 0;
}

static int make_files(csp_comm *comm)
{
    if (csp_comm_rank(comm) == 0) {
        RANK_CHECK(make_beir("plain", "", "wbT") == 0 && make_beir("packed", ".gz", "wb") == 0);
        RANK_CHECK(make_lines() == 0);
    }
    RANK_TRY(csp_comm_barrier(comm, "the files"));
    return 0;
}

static csp_pairs_source source_of(int kind)
{
    csp_pairs_source source = { .corpus = kind == 1   ? at("packed")
                                          : kind == 2 ? NULL
                                                      : at("plain"),
                                .train = kind == 2   ? at("inside.jsonl")
                                         : kind == 3 ? at("ids.jsonl")
                                                     : NULL,
                                .separator = " / " };

    return source;
}

/* What visits a training set, and its source. */
typedef struct shared_pairs {
    csp_pairs_source source;
    csp_pairs *pairs;
    int64_t *numbers; /* (count) more than what is sent at once: 5.3 MiB */
    int64_t count;
    long fault; /* of an allocation while the image gives; 0: none */
} shared_pairs;

static csp_status visit_pairs(void *context, csp_image *image)
{
    shared_pairs *p = context;
    csp_status status;

    if (csp_image_gives(image) && p->fault > 0) {
        csp_fault_arm(p->fault);
    }
    status = csp_pairs_share(image, &p->source, &p->pairs);
    csp_fault_arm(0);
    CSP_TRY(status);
    return csp_image_array(image, &p->count, sizeof(*p->numbers), &p->numbers);
}

static csp_status share_pairs(csp_comm *machine, shared_pairs *p, csp_image **image)
{
    CSP_TRY(csp_image_create(machine, image));
    if (csp_image_reads(*image)) {
        p->source.image = *image;
        CSP_TRY(csp_pairs_open(&p->source, &p->pairs));
    }
    return csp_image_share(*image, visit_pairs, p);
}

static int same_rows(const csp_text_row *a, const csp_text_row *b)
{
    RANK_CHECK(strcmp(a->id, b->id) == 0 && a->bytes == b->bytes &&
               memcmp(a->text, b->text, (size_t)a->bytes) == 0);
    return 0;
}

/* All that training asks a training set for, of one that was read here and one that was given. */
static int same_pairs(csp_pairs *read, csp_pairs *given)
{
    const csp_sampling sampling = { .seed = 5, .Q = 8, .G = 4 };
    csp_pairs_digests here, there;
    csp_draw_list drawn[2] = { { 0 }, { 0 } };
    csp_text_row a, b;
    int64_t n, m;

    RANK_TRY(csp_pairs_digest(read, &here));
    RANK_TRY(csp_pairs_digest(given, &there));
    RANK_CHECK(strcmp(here.documents, there.documents) == 0 &&
               strcmp(here.queries, there.queries) == 0 &&
               strcmp(here.examples, there.examples) == 0);
    RANK_CHECK(memcmp(csp_pairs_report(read), csp_pairs_report(given), sizeof(csp_join_report)) ==
               0);
    RANK_CHECK(csp_pairs_count(read) == csp_pairs_count(given) && csp_pairs_count(read) > 0);
    RANK_CHECK(csp_pairs_documents(read) == csp_pairs_documents(given));
    for (int64_t e = 0; e < csp_pairs_count(read); e++) {
        const int64_t *positives[2] = { csp_pairs_positives(read, e, &n),
                                        csp_pairs_positives(given, e, &m) };
        const int32_t *negatives[2];

        RANK_CHECK(n == m && memcmp(positives[0], positives[1], sizeof(int64_t) * (size_t)n) == 0);
        negatives[0] = csp_pairs_negatives(read, e, &n);
        negatives[1] = csp_pairs_negatives(given, e, &m);
        RANK_CHECK(n == m && memcmp(negatives[0], negatives[1], sizeof(int32_t) * (size_t)n) == 0);
        RANK_CHECK(strcmp(csp_pairs_query_id(read, e), csp_pairs_query_id(given, e)) == 0);
        RANK_CHECK(csp_pairs_query_bytes(read, e) == csp_pairs_query_bytes(given, e));
        RANK_TRY(csp_pairs_read_query(read, e, &a));
        RANK_TRY(csp_pairs_read_query(given, e, &b));
        RANK_CHECK(same_rows(&a, &b) == 0);
    }
    for (int64_t d = 0; d < csp_pairs_documents(read); d++) {
        RANK_CHECK(csp_pairs_document_bytes(read, d) == csp_pairs_document_bytes(given, d));
        RANK_TRY(csp_pairs_read_document(read, d, &a));
        RANK_TRY(csp_pairs_read_document(given, d, &b));
        RANK_CHECK(same_rows(&a, &b) == 0);
        RANK_CHECK(strcmp(csp_pairs_document_id(given, d), b.id) == 0);
    }
    for (int64_t step = 0; step < 60; step++) {
        RANK_TRY(csp_pairs_draw(read, &sampling, step, 2, 4, &drawn[0]));
        RANK_TRY(csp_pairs_draw(given, &sampling, step, 2, 4, &drawn[1]));
        RANK_CHECK(memcmp(drawn[0].example, drawn[1].example, 4 * sizeof(int64_t)) == 0);
        RANK_CHECK(memcmp(drawn[0].document, drawn[1].document, 16 * sizeof(int64_t)) == 0);
    }
    csp_draw_list_clear(&drawn[0]);
    csp_draw_list_clear(&drawn[1]);
    return 0;
}

/* Bytes that this process has read from files so far, however it read them. */
static long long bytes_read(void)
{
    FILE *file = fopen("/proc/self/io", "r");
    long long bytes = -1;

    if (file != NULL) {
        (void)(fscanf(file, "rchar: %lld", &bytes) == 1);
        fclose(file);
    }
    return bytes;
}

static int open_files(void)
{
    DIR *all = opendir("/proc/self/fd");
    int count = 0;

    while (all != NULL && readdir(all) != NULL) {
        count++;
    }
    (void)closedir(all);
    return count;
}

/*
 * Every kind of source: the same on all ranks, in one memory. counts: one rank alone reads files,
 * and none is left open; MPI reads and opens some of its own.
 */
static int share_all(int counts)
{
    csp_comm *comm, *machine;

    RANK_TRY(join(60.0, &comm, &machine));
    RANK_CHECK(make_files(comm) == 0);
    for (int kind = 0; kind < 4; kind++) {
        shared_pairs p = { .source = source_of(kind) };
        const int files = open_files();
        csp_image *image = NULL;
        csp_pairs *own = NULL;
        long long alone = -bytes_read(), shared;

        RANK_TRY(csp_pairs_open(&p.source, &own));
        alone += bytes_read();
        shared = -bytes_read();
        RANK_TRY(share_pairs(machine, &p, &image));
        shared += bytes_read();
        RANK_CHECK(csp_image_is_mapped(image) && csp_image_bytes(image) > 0);
        RANK_CHECK(
            counts == 0 ||
            (csp_comm_rank(machine) == 0 ? shared >= alone : alone > 5000 && shared < alone / 10));
        RANK_CHECK(same_pairs(own, p.pairs) == 0);
        csp_pairs_close(p.pairs);
        csp_pairs_close(own);
        csp_image_destroy(image);
        RANK_CHECK(counts == 0 || open_files() == files);
    }
    return leave(comm);
}

/* Collections to adapt on. */
typedef struct shared_plain {
    csp_plain *plain;
} shared_plain;

static csp_status visit_plain(void *context, csp_image *image)
{
    return csp_plain_share(image, NULL, &((shared_plain *)context)->plain);
}

static int share_plain(int argument)
{
    csp_comm *comm, *machine;
    char own_digest[CSP_DIGEST_TEXT_BYTES], digest[CSP_DIGEST_TEXT_BYTES];
    shared_plain p = { NULL };
    csp_image *image = NULL;
    csp_plain *own = NULL;

    RANK_TRY(join(60.0, &comm, &machine));
    RANK_CHECK(make_files(comm) == 0);
    const char *paths[2] = { at("plain"), at("packed/queries.jsonl.gz") };

    RANK_TRY(csp_plain_open(paths, 2, false, NULL, NULL, &own));
    RANK_TRY(csp_image_create(machine, &image));
    if (csp_image_reads(image)) {
        RANK_TRY(csp_plain_open(paths, 2, false, NULL, image, &p.plain));
    }
    RANK_TRY(csp_image_share(image, visit_plain, &p));
    RANK_TRY(csp_plain_digest(own, own_digest));
    RANK_TRY(csp_plain_digest(p.plain, digest));
    RANK_CHECK(strcmp(own_digest, digest) == 0);
    RANK_CHECK(csp_plain_count(own) == csp_plain_count(p.plain) &&
               csp_plain_empty(own) == csp_plain_empty(p.plain));
    for (int64_t i = 0; i < csp_plain_count(own); i++) {
        csp_text_row a, b;

        RANK_TRY(csp_plain_read(own, i, &a));
        RANK_TRY(csp_plain_read(p.plain, i, &b));
        RANK_CHECK(a.bytes == b.bytes && memcmp(a.text, b.text, (size_t)a.bytes) == 0);
        RANK_CHECK(csp_plain_bytes(own, i) == csp_plain_bytes(p.plain, i));
    }
    csp_plain_close(p.plain);
    csp_plain_close(own);
    csp_image_destroy(image);
    return leave(comm);
}

/* No file can be opened until the limit is what it was. */
static int forbid_files(struct rlimit *before)
{
    struct rlimit now;
    const int next = dup(0);

    RANK_CHECK(next >= 0 && close(next) == 0 && getrlimit(RLIMIT_NOFILE, before) == 0);
    now = *before;
    now.rlim_cur = (rlim_t)next; // all below are taken
    RANK_CHECK(setrlimit(RLIMIT_NOFILE, &now) == 0);
    return 0;
}

/*
 * Memory that one rank cannot find, as between containers, or that the reader does not get: each
 * has a copy. victim: the rank whose system says no.
 */
static int share_copies(int victim)
{
    shared_pairs p = { 0 };
    csp_comm *comm, *machine;
    csp_image *image = NULL;
    csp_pairs *own = NULL;
    struct rlimit before;
    bool limited;

    RANK_TRY(join(60.0, &comm, &machine));
    RANK_CHECK(make_files(comm) == 0);
    p.source = source_of(1); // compressed: no other file is needed
    RANK_TRY(csp_pairs_open(&p.source, &own));
    limited = csp_comm_rank(machine) == victim;
    if (limited) {
        RANK_CHECK(forbid_files(&before) == 0);
    }
    RANK_TRY(csp_image_create(machine, &image));
    if (victim == 0 && limited) {
        RANK_CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
    }
    if (csp_image_reads(image)) {
        RANK_TRY(csp_pairs_open(&p.source, &p.pairs));
        p.count = NUMBERS;
        p.numbers = malloc(sizeof(*p.numbers) * NUMBERS);
        RANK_CHECK(p.numbers != NULL);
        for (int64_t i = 0; i < NUMBERS; i++) {
            p.numbers[i] = i * i;
        }
    }
    RANK_TRY(csp_image_share(image, visit_pairs, &p));
    RANK_CHECK(p.count == NUMBERS);
    for (int64_t i = 0; i < NUMBERS; i++) {
        RANK_CHECK(p.numbers[i] == i * i);
    }
    if (limited) {
        RANK_CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
    }
    RANK_CHECK(csp_image_is_mapped(image) == (csp_comm_rank(machine) == 0 && victim != 0));
    RANK_CHECK(same_pairs(own, p.pairs) == 0);
    csp_pairs_close(p.pairs);
    csp_pairs_close(own);
    csp_image_destroy(image);
    return leave(comm);
}

/* Each allocation of a rank that is given its parts fails once, and the next image is good. */
static int fail_to_take(int argument)
{
    csp_comm *comm, *machine;
    int32_t is_done = 0;

    RANK_TRY(join(60.0, &comm, &machine));
    RANK_CHECK(make_files(comm) == 0);
    for (int kind = 2; kind < 4; kind++) { // of all kinds of parts
        long n = 0;

        for (is_done = 0; is_done == 0;) {
            shared_pairs p = { .source = source_of(kind) };
            csp_image *image = NULL;
            csp_status status;

            p.fault = csp_comm_rank(machine) > 0 ? ++n : 0;
            status = share_pairs(machine, &p, &image);
            RANK_CHECK(status == CSP_OK || (status == CSP_ERR_MEMORY && p.fault > 0));
            csp_pairs_close(p.pairs);
            csp_image_destroy(image);
            is_done = status == CSP_OK;
            RANK_TRY(csp_comm_reduce(machine, &is_done, CSP_I32, 1, CSP_COMM_MIN, "rounds"));
            RANK_CHECK(n < 200);
        }
        RANK_CHECK(csp_comm_rank(machine) == 0 || n > 8);
    }
    return leave(comm);
}

/* Memory of another process is found by all that is known of it, or not at all. */
static int find_memory(int argument)
{
    static const char text[] = "written in two pieces";
    csp_comm *comm, *machine;
    csp_shared_place place = { 0 };
    const char *found;
    int fd = -1;

    RANK_TRY(join(60.0, &comm, &machine));
    if (csp_comm_rank(comm) == 0) {
        fd = csp_shared_memory_create();
        RANK_CHECK(fd >= 0);
        RANK_TRY(csp_shared_memory_write(fd, 8, text + 8, sizeof(text) - 8));
        RANK_TRY(csp_shared_memory_write(fd, 0, text, 8));
        RANK_TRY(csp_shared_memory_place(fd, &place));
        RANK_CHECK(csp_shared_memory_write(-1, 0, text, 8) == CSP_ERR_MEMORY);
    }
    RANK_TRY(csp_comm_broadcast(comm, &place, sizeof(place), 0, "a place"));
    RANK_CHECK(place.bytes == sizeof(text));
    found = csp_shared_memory_find(&place);
    RANK_CHECK(found != NULL && memcmp(found, text, sizeof(text)) == 0);
    csp_shared_memory_leave(found, place.bytes);
    for (int i = 0; i < 5; i++) {
        csp_shared_place wrong = place;

        wrong.pid = i == 0 ? 0 : place.pid;
        wrong.fd = i == 1 ? 1 : place.fd; // open, and something else
        wrong.device += i == 2;
        wrong.file += i == 3;
        wrong.bytes -= i == 4;
        RANK_CHECK(csp_shared_memory_find(&wrong) == NULL);
    }
    RANK_TRY(csp_comm_barrier(comm, "all have found it"));
    RANK_CHECK(csp_comm_rank(comm) != 0 || close(fd) == 0);
    return leave(comm);
}

/* What the reader finds wrong, the others end by. */
static int fail_to_read(int argument)
{
    shared_pairs p = { 0 };
    csp_comm *comm, *machine;
    csp_image *image = NULL;
    csp_status status;

    RANK_TRY(join(60.0, &comm, &machine));
    RANK_CHECK(make_files(comm) == 0);
    p.source = source_of(0);
    if (csp_comm_rank(comm) == 0) {
        FILE *file = fopen(at("plain/corpus.jsonl"), "a");

        RANK_CHECK(file != NULL && fputs("{\"_id\":\"x\",\"text\":7}\n", file) > 0 &&
                   fclose(file) == 0);
    }
    status = csp_comm_barrier(comm, "the bad line");
    if (status == CSP_OK) { /* else the reader's end came while this rank was still leaving */
        status = share_pairs(machine, &p, &image);
    }
    RANK_CHECK(strstr(csp_error_text(), "corpus.jsonl:1201") != NULL);
    if (csp_comm_rank(machine) == 0) {
        RANK_CHECK(status == CSP_ERR_FORMAT && p.pairs == NULL);
        csp_comm_report(comm, 3, csp_error_text());
        RANK_CHECK(remove_files(comm) == 0);
    } else {
        RANK_CHECK(status == CSP_ERR_COMM && p.pairs == NULL);
    }
    csp_image_destroy(image);
    csp_comm_destroy(comm);
    return 3;
}

static bool all_end_with_3(const int *at, int size, int argument)
{
    bool all = true;

    for (int r = 0; r < size; r++) {
        all = all && (at[r] == 3 << 8 || at[r] == RANKS_UNKNOWN);
    }
    return all;
}

/*
 * Rank 1 finds other files than rank 0 by the same path. Copies are as good; of another content it
 * has another digest, that of what it would have read; what cannot be read at an offset is refused.
 */
static int see_other_files(int argument)
{
    char command[1200];
    csp_comm *comm, *machine;
    bool is_other;

    RANK_TRY(join(60.0, &comm, &machine));
    RANK_CHECK(make_files(comm) == 0);
    is_other = csp_comm_rank(comm) == 1;
    (void)snprintf(command, sizeof(command), "mkdir %s && cp -r %s %s", at("other"), at("plain"),
                   at("other"));
    RANK_CHECK(!is_other || system(command) == 0);
    RANK_CHECK(chdir(is_other ? at("other") : folder) == 0);
    for (int round = 0; round < 3; round++) {
        shared_pairs p = { .source = { .corpus = "plain" } };
        csp_pairs_digests own, shared;
        csp_image *image = NULL;
        csp_pairs *pairs = NULL;
        char all[2][CSP_DIGEST_TEXT_BYTES];
        const int64_t bytes[2] = { sizeof(all[0]), sizeof(all[0]) };
        csp_status status;

        if (is_other && round == 1) {
            RANK_CHECK(system("sed -i '1199s/the text/the word/' plain/corpus.jsonl") == 0);
        } else if (is_other && round == 2) {
            RANK_CHECK(system("gzip -n plain/corpus.jsonl && "
                              "mv plain/corpus.jsonl.gz plain/corpus.jsonl") == 0);
        }
        status = share_pairs(machine, &p, &image);
        if (is_other && round == 2) {
            RANK_CHECK(status == CSP_ERR_DATA &&
                       strstr(csp_error_text(), "corpus.jsonl: a plain file for") != NULL);
        } else {
            RANK_TRY(status);
            RANK_TRY(csp_pairs_open(&p.source, &pairs));
            RANK_TRY(csp_pairs_digest(pairs, &own));
            RANK_TRY(csp_pairs_digest(p.pairs, &shared));
            RANK_CHECK(strcmp(own.documents, shared.documents) == 0 &&
                       strcmp(own.queries, shared.queries) == 0);
        }
        if (round < 2) {
            RANK_TRY(csp_comm_gather(comm, shared.documents, all, bytes, "digests"));
            RANK_CHECK((strcmp(all[0], all[1]) == 0) == (round == 0));
        }
        csp_pairs_close(pairs);
        csp_pairs_close(p.pairs);
        csp_image_destroy(image);
    }
    return leave(comm);
}

static csp_status visit_nothing(void *context, csp_image *image)
{
    return csp_image_value(image, context, sizeof(int64_t));
}

/* A reader that needs longer than ranks wait for one another, and says that it is there. */
static int read_for_long(int argument)
{
    const struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
    int64_t value = 0;
    csp_comm *comm, *machine;
    csp_image *image = NULL;

    RANK_TRY(join(4.0, &comm, &machine));
    RANK_TRY(csp_image_create(machine, &image));
    if (csp_image_reads(image)) {
        const time_t end = time(NULL) + 7;

        while (time(NULL) < end) {
            RANK_TRY(csp_image_waits(image));
            (void)nanosleep(&pause, NULL);
        }
        value = 11;
    }
    RANK_TRY(csp_image_share(image, visit_nothing, &value));
    RANK_CHECK(value == 11);
    csp_image_destroy(image);
    return leave(comm);
}

/* A rank alone has no image. */
static int read_alone(int argument)
{
    shared_pairs p = { 0 };
    csp_comm *comm, *machine;
    csp_image *image = NULL;
    csp_pairs *own = NULL;

    RANK_TRY(join(60.0, &comm, &machine));
    RANK_CHECK(make_files(comm) == 0);
    p.source = source_of(0);
    for (int i = 0; i < 2; i++) {
        RANK_TRY(share_pairs(i == 0 ? machine : NULL, &p, &image));
        RANK_CHECK(image == NULL && p.pairs != NULL);
        RANK_TRY(csp_pairs_open(&p.source, &own));
        RANK_CHECK(same_pairs(own, p.pairs) == 0);
        csp_pairs_close(own);
        csp_pairs_close(p.pairs);
    }
    return leave(comm);
}

int main(int argc, char **argv)
{
    static const ranks_job jobs[] = {
        { .name = "pairs", .body = share_all, .size = 3 },
        { .name = "one reads", .body = share_all, .size = 2, .argument = 1, .is_tcp_only = true },
        { .name = "plain", .body = share_plain, .size = 2 },
        { .name = "memory", .body = find_memory, .size = 2 },
        { .name = "not found",
          .body = share_copies,
          .size = 3,
          .argument = 2,
          .is_tcp_only = true },
        { .name = "not made", .body = share_copies, .size = 3, .argument = 0, .is_tcp_only = true },
        { .name = "no memory", .body = fail_to_take, .size = 2, .is_tcp_only = true },
        { .name = "bad line", .body = fail_to_read, .size = 3, .expect = all_end_with_3 },
        { .name = "differs", .body = see_other_files, .size = 2 },
        { .name = "long", .body = read_for_long, .size = 2, .is_tcp_only = true },
        { .name = "alone", .body = read_alone, .size = 1 },
    };

    return ranks_main(argc, argv, jobs, (int)(sizeof(jobs) / sizeof(jobs[0])));
}
