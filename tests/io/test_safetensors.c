/* test_safetensors.c - files and folders of tensors: read, refused, written, damaged. */
#include "io/scratch.h"

#include "io/safetensors.h"

/* A file of header and data, with the length prefix made here. */
static void put_file(const char *path, const char *header, const void *data, size_t data_bytes)
{
    const uint64_t bytes = strlen(header);
    char *file = malloc(8 + bytes + data_bytes + 1);

    assert_non_null(file);
    memcpy(file, &bytes, 8);
    memcpy(file + 8, header, bytes);
    if (data_bytes > 0) {
        memcpy(file + 8 + bytes, data, data_bytes);
    }
    scratch_write(path, file, 8 + bytes + data_bytes);
    free(file);
}

static void the_worked_example_is_read(void **state)
{
    static const unsigned char example[] = "\x38\0\0\0\0\0\0\0"
                                           "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],"
                                           "\"data_offsets\":[0,4]}}  "
                                           "\x00\x00\x80\x3F";
    const csp_safetensors_entry *entry;
    csp_safetensors *file;

    (void)state;
    assert_int_equal(sizeof(example) - 1, 8 + 56 + 4);
    scratch_write(scratch_path("example"), example, sizeof(example) - 1);
    assert_ok(csp_safetensors_open(scratch_path("example"), &file));
    assert_int_equal(csp_safetensors_count(file), 1);
    assert_ok(csp_safetensors_find(file, "w", &entry));
    assert_true(csp_tensor_is(&entry->tensor, CSP_F32, 1, (int64_t[]) { 1 }));
    assert_true(*(float *)entry->tensor.data == 1.0f);
    assert_ptr_equal(csp_safetensors_at(file, 0), entry);
    csp_safetensors_close(file);
    csp_safetensors_close(NULL);
}

static void bad_headers_are_refused_with_the_tensor(void **state)
{
    static const struct {
        const char *header, *part;
    } cases[] = {
        { "[]", "does not begin with {" },
        { "{ ", "header byte" },
        { "{}x", "header byte" },
        { "{\"a\":1}", "tensor a" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "tensor a" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", "tensor a" },
        { "{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", "tensor a" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", "not an array" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "whole number" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", "whole number" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}",
          "2 elements of F32 do not fill its 4 bytes" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", "[0, 8] do not lie" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", "do not lie" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", "tensor a" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]}}",
          "overflows" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,4]}}",
          "overflows" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}",
          "header byte" },
        { "{\"a\":{\"dtype\":\"F4\",\"shape\":[7],\"data_offsets\":[0,4]}}", "do not fill" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}",
          "tensor b begins at byte 3" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
          "tensor b begins at byte 2" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", "end at 3" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}", "begins at byte 1" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
          "duplicate" },
        { "{\"__metadata__\":[],\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
          "__metadata__" },
        { "{\"__metadata__\":{\"k\":1},\"a\":{\"dtype\":\"U8\",\"shape\":[4],"
          "\"data_offsets\":[0,4]}}",
          "__metadata__ \"k\"" },
        { "{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
          "header byte" },
        { "{\"\xFF\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", "header byte" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        csp_safetensors *file = NULL;

        put_file(scratch_path("bad"), cases[i].header, "1234", 4);
        assert_int_equal(csp_safetensors_open(scratch_path("bad"), &file), CSP_ERR_FORMAT);
        assert_error_has(cases[i].part);
        assert_error_has("bad: ");
        assert_null(file);
    }
}

static void bad_lengths_and_absent_files_are_refused(void **state)
{
    csp_safetensors *file = NULL;
    uint64_t huge = UINT64_MAX;

    (void)state;
    assert_int_equal(csp_safetensors_open(scratch_path("absent"), &file), CSP_ERR_IO);
    assert_int_equal(csp_safetensors_open(scratch_dir, &file), CSP_ERR_IO);
    scratch_write(scratch_path("short"), "1234567", 7);
    assert_int_equal(csp_safetensors_open(scratch_path("short"), &file), CSP_ERR_FORMAT);
    assert_error_has("shorter than the 8-byte");
    scratch_write(scratch_path("short"), &huge, 8);
    assert_int_equal(csp_safetensors_open(scratch_path("short"), &file), CSP_ERR_FORMAT);
    assert_error_has("header length 18446744073709551615");
    scratch_write(scratch_path("short"), "\0\0\0\0\0\0\0\0", 8);
    assert_int_equal(csp_safetensors_open(scratch_path("short"), &file), CSP_ERR_FORMAT);
    assert_null(file);
}

static void unusable_tensors_are_refused_only_when_asked_for(void **state)
{
    static const char header[] =
        "{\"five\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,1]},"
        "\"future\":{\"dtype\":\"F3\",\"shape\":[9],\"data_offsets\":[1,2]},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[3,7]},"
        "\"truth\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[2,3]},"
        "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,4611686018427],\"data_offsets\":[3,3]}}";
    const float two = 2.0f;
    unsigned char data[7] = { 1, 2, 3 };
    const csp_safetensors_entry *entry = NULL;
    csp_safetensors *file;

    (void)state;
    memcpy(data + 3, &two, 4);
    put_file(scratch_path("odd"), header, data, 7);
    assert_ok(csp_safetensors_open(scratch_path("odd"), &file));
    assert_int_equal(csp_safetensors_count(file), 5);
    assert_int_equal(csp_safetensors_find(file, "five", &entry), CSP_ERR_FORMAT);
    assert_error_has("tensor five: csplade does not read 5 dimensions");
    assert_int_equal(csp_safetensors_find(file, "future", &entry), CSP_ERR_FORMAT);
    assert_int_equal(csp_safetensors_find(file, "truth", &entry), CSP_ERR_FORMAT);
    assert_error_has("tensor truth: csplade does not read dtype BOOL");
    assert_int_equal(csp_safetensors_find(file, "none", &entry), CSP_ERR_FORMAT);
    assert_error_has("no tensor named none");
    assert_null(entry);
    assert_true(csp_safetensors_has(file, "truth"));
    assert_false(csp_safetensors_has(file, "none"));
    /* The scalar lies at an odd address in the file and at an even one here. */
    assert_ok(csp_safetensors_find(file, "scalar", &entry));
    assert_true(csp_tensor_is(&entry->tensor, CSP_F32, 1, (int64_t[]) { 1 }));
    assert_int_equal((uintptr_t)entry->tensor.data % 4, 0);
    assert_true(*(float *)entry->tensor.data == 2.0f);
    assert_ok(csp_safetensors_find(file, "empty", &entry));
    assert_int_equal(csp_tensor_count(&entry->tensor), 0);
    csp_safetensors_close(file);
}

static float weights[12];
static uint16_t halves[3] = { 0x3F80, 0x4000, 0xBF80 };
static int64_t longs[2] = { -1, INT64_MAX };

/* Four tensors of three dtypes, of 48, 6, 16 and 0 bytes. */
static void make_entries(csp_safetensors_entry entries[4])
{
    for (int i = 0; i < 12; i++) {
        weights[i] = (float)i * 0.5f;
    }
    entries[0] =
        (csp_safetensors_entry) { "model.layers.0.w",
                                  csp_tensor_view(weights, CSP_F32, 2, (int64_t[]) { 3, 4 }) };
    entries[1] =
        (csp_safetensors_entry) { "half \"quoted\" \xC3\xBC",
                                  csp_tensor_view(halves, CSP_BF16, 1, (int64_t[]) { 3 }) };
    entries[2] =
        (csp_safetensors_entry) { "long", csp_tensor_view(longs, CSP_I64, 1, (int64_t[]) { 2 }) };
    entries[3] =
        (csp_safetensors_entry) { "none", csp_tensor_view(NULL, CSP_F32, 2, (int64_t[]) { 0, 5 }) };
}

static void assert_same_tensor(const csp_tensor *got, const csp_tensor *want)
{
    assert_true(csp_tensor_is(got, want->dtype, want->ndim, want->dim));
    if (csp_tensor_bytes(want) > 0) {
        assert_memory_equal(got->data, want->data, csp_tensor_bytes(want));
    }
}

static void what_is_written_reads_back_in_order(void **state)
{
    csp_safetensors_entry entries[4];
    csp_safetensors *file;
    char *bytes;
    size_t count;

    (void)state;
    make_entries(entries);
    assert_ok(csp_safetensors_write(scratch_path("out"), entries, 4, NULL));
    assert_ok(csp_safetensors_open(scratch_path("out"), &file));
    assert_int_equal(csp_safetensors_count(file), 4);
    for (int i = 0; i < 4; i++) {
        const csp_safetensors_entry *entry;

        assert_ok(csp_safetensors_find(file, entries[i].name, &entry));
        assert_same_tensor(&entry->tensor, &entries[i].tensor);
        assert_int_equal((uintptr_t)entry->tensor.data % csp_dtype_bytes(entry->tensor.dtype), 0);
        if (i < 3) {
            assert_string_equal(csp_safetensors_at(file, i)->name, entries[i].name);
        }
    }
    csp_safetensors_close(file);
    bytes = scratch_read(scratch_path("out"), &count);
    assert_non_null(
        strstr(bytes + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"model.layers.0.w\":{"));
    assert_int_equal(bytes[0] % 8, 0);
    free(bytes);
    /* Nothing at all is a file too. */
    assert_ok(csp_safetensors_write(scratch_path("out"), entries, 0, NULL));
    assert_ok(csp_safetensors_open(scratch_path("out"), &file));
    assert_int_equal(csp_safetensors_count(file), 0);
    csp_safetensors_close(file);
}

static void unusable_entries_are_not_written(void **state)
{
    csp_safetensors_entry entries[4];

    (void)state;
    make_entries(entries);
    entries[3].name = "long";
    assert_int_equal(csp_safetensors_write(scratch_path("not"), entries, 4, NULL),
                     CSP_ERR_ARGUMENT);
    assert_error_has("long comes twice");
    entries[3].name = "";
    assert_int_equal(csp_safetensors_write(scratch_path("not"), entries, 4, NULL),
                     CSP_ERR_ARGUMENT);
    entries[3].name = "\xFF";
    assert_int_equal(csp_safetensors_write(scratch_path("not"), entries, 4, NULL),
                     CSP_ERR_ARGUMENT);
    entries[3].name = "__metadata__";
    assert_int_equal(csp_safetensors_write(scratch_path("not"), entries, 4, NULL),
                     CSP_ERR_ARGUMENT);
    entries[3] = (csp_safetensors_entry) { "none", csp_tensor_none() };
    assert_int_equal(csp_safetensors_write(scratch_path("not"), entries, 4, NULL),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(access(scratch_path("not"), F_OK), -1);
}

static void check_folder(const char *dir, const csp_safetensors_entry entries[4])
{
    csp_safetensors_set *set;

    assert_ok(csp_safetensors_set_open(dir, &set));
    assert_int_equal(csp_safetensors_set_count(set), 4);
    for (int i = 0; i < 4; i++) {
        const csp_safetensors_entry *entry = csp_safetensors_set_find(set, entries[i].name);

        assert_non_null(entry);
        assert_same_tensor(&entry->tensor, &entries[i].tensor);
    }
    assert_string_equal(csp_safetensors_set_at(set, 0)->name, entries[0].name);
    assert_null(csp_safetensors_set_find(set, "lm_head.weight"));
    csp_safetensors_set_close(set);
    csp_safetensors_set_close(NULL);
}

static void folders_read_back_whatever_the_shards(void **state)
{
    static const struct {
        int64_t shard_bytes;
        int files;
    } cases[] = { { 0, 1 }, { 50, 2 }, { 1, 4 }, { 1000, 1 } };
    csp_safetensors_entry entries[4];

    (void)state;
    make_entries(entries);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char dir[512], name[32];

        snprintf(name, sizeof(name), "model%zu", i);
        snprintf(dir, sizeof(dir), "%s", scratch_path(name));
        assert_int_equal(mkdir(dir, 0777), 0);
        assert_ok(csp_safetensors_write_dir(dir, entries, 4, cases[i].shard_bytes, NULL));
        check_folder(dir, entries);
        assert_int_equal(scratch_count(dir, ".index.json"), cases[i].files > 1);
        assert_int_equal(scratch_count(dir, "model"), cases[i].files + (cases[i].files > 1));
    }
}

static void a_folder_written_again_in_the_other_way_is_the_new_one(void **state)
{
    csp_safetensors_entry entries[4];
    char dir[512];

    (void)state;
    make_entries(entries);
    snprintf(dir, sizeof(dir), "%s", scratch_path("again"));
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_ok(csp_safetensors_write_dir(dir, entries, 2, 0, NULL));
    assert_ok(csp_safetensors_write_dir(dir, entries, 4, 50, NULL));
    check_folder(dir, entries);
    assert_ok(csp_safetensors_write_dir(dir, entries, 4, 0, NULL));
    check_folder(dir, entries);
    assert_int_equal(scratch_count(dir, ".index.json"), 0);
}

static void indexes_that_lie_are_refused(void **state)
{
    static const struct {
        const char *index, *part;
        csp_status status;
    } cases[] = {
        { "{\"weight_map\":{\"absent\":\"one.safetensors\"}}",
          "tensor absent is not in one.safetensors", CSP_ERR_FORMAT },
        { "{\"weight_map\":{\"long\":\"two.safetensors\"}}", "two.safetensors", CSP_ERR_IO },
        { "{\"weight_map\":{\"long\":\"../one.safetensors\"}}", "not the name of a file",
          CSP_ERR_FORMAT },
        { "{\"weight_map\":{\"long\":1}}", "tensor long", CSP_ERR_FORMAT },
        { "{\"weight_map\":[]}", "weight_map", CSP_ERR_FORMAT },
        { "{}", "weight_map", CSP_ERR_FORMAT },
        { "{", "index.json:1:", CSP_ERR_FORMAT },
    };
    csp_safetensors_entry entries[4];
    csp_safetensors_set *set = NULL;
    char dir[512], index[600];

    (void)state;
    make_entries(entries);
    snprintf(dir, sizeof(dir), "%s", scratch_path("lies"));
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_int_equal(csp_safetensors_set_open(dir, &set), CSP_ERR_IO);
    assert_error_has("neither model.safetensors nor");
    assert_ok(csp_safetensors_write(scratch_path("lies/one.safetensors"), entries, 4, NULL));
    snprintf(index, sizeof(index), "%s/model.safetensors.index.json", dir);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        scratch_text(index, cases[i].index);
        assert_int_equal(csp_safetensors_set_open(dir, &set), cases[i].status);
        assert_error_has(cases[i].part);
        assert_null(set);
    }
    /* What the index does not name is left out. */
    scratch_text(index, "{\"weight_map\":{\"long\":\"one.safetensors\"}}");
    assert_ok(csp_safetensors_set_open(dir, &set));
    assert_int_equal(csp_safetensors_set_count(set), 1);
    assert_null(csp_safetensors_set_find(set, "none"));
    csp_safetensors_set_close(set);
}

static csp_status open_file(const char *path)
{
    csp_safetensors *file;

    CSP_TRY(csp_safetensors_open(path, &file));
    for (int64_t i = 0; i < csp_safetensors_count(file); i++) {
        const csp_safetensors_entry *entry = csp_safetensors_at(file, i);
        const unsigned char *bytes = entry->tensor.data;
        volatile unsigned char sum = 0;

        for (size_t j = 0; bytes != NULL && j < csp_tensor_bytes(&entry->tensor); j++) {
            sum = (unsigned char)(sum + bytes[j]);
        }
    }
    csp_safetensors_close(file);
    return CSP_OK;
}

static void damaged_files_are_refused_without_harm(void **state)
{
    csp_safetensors_entry entries[4];
    char *bytes, path[512];
    size_t count, header;

    (void)state;
    make_entries(entries);
    snprintf(path, sizeof(path), "%s", scratch_path("damage"));
    assert_ok(csp_safetensors_write(path, entries, 4, NULL));
    bytes = scratch_read(path, &count);
    header = 8 + (unsigned char)bytes[0] + 256 * (size_t)(unsigned char)bytes[1];
    for (size_t cut = count - 1; cut < count; cut--) { /* ends when 0 wraps round */
        assert_int_equal(truncate(path, (off_t)cut), 0);
        assert_int_equal(open_file(path), CSP_ERR_FORMAT);
    }
    scratch_write(path, bytes, count);
    for (size_t at = 0; at < header; at++) {
        for (int bit = 0; bit < 8; bit++) {
            csp_status status;

            scratch_poke(path, at, (char)(bytes[at] ^ (1 << bit)));
            status = open_file(path);
            /* A flip in a name or in a metadata value leaves a file that is right in itself. */
            assert_true(status == CSP_ERR_FORMAT || status == CSP_OK);
        }
        scratch_poke(path, at, bytes[at]);
    }
    free(bytes);
}

/* Gives the data of the entries from one buffer; stops at the entry that fails. */
typedef struct giver {
    const csp_safetensors_entry *full, *empty;
    const char *fails;
    char buffer[64];
} giver;

static csp_status give(void *context, const csp_safetensors_entry *entry, const void **data)
{
    giver *g = context;
    const csp_tensor *t = &g->full[entry - g->empty].tensor;

    if (strcmp(entry->name, g->fails) == 0) {
        return CSP_FAIL(CSP_ERR_NUMERIC, "%s is not finite", entry->name);
    }
    assert_true(csp_tensor_bytes(t) <= sizeof(g->buffer));
    if (csp_tensor_bytes(t) > 0) {
        memcpy(g->buffer, t->data, csp_tensor_bytes(t));
    }
    *data = g->buffer;
    return CSP_OK;
}

static void a_source_gives_the_same_file_and_may_fail(void **state)
{
    csp_safetensors_entry full[4], empty[4];
    giver g = { full, empty, "", { 0 } };
    const csp_safetensors_source source = { give, &g };
    char *want, *got;
    size_t count, again;

    (void)state;
    make_entries(full);
    make_entries(empty);
    for (int i = 0; i < 4; i++) {
        empty[i].tensor.data = NULL;
    }
    assert_ok(csp_safetensors_write(scratch_path("full"), full, 4, NULL));
    assert_ok(csp_safetensors_write(scratch_path("given"), empty, 4, &source));
    want = scratch_read(scratch_path("full"), &count);
    got = scratch_read(scratch_path("given"), &again);
    assert_int_equal(again, count);
    assert_memory_equal(got, want, count);
    free(got);
    g.fails = full[2].name;
    assert_int_equal(csp_safetensors_write(scratch_path("given"), empty, 4, &source),
                     CSP_ERR_NUMERIC);
    got = scratch_read(scratch_path("given"), &again);
    assert_int_equal(again, count);
    assert_memory_equal(got, want, count);
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
    free(got);
    free(want);
}

static csp_status write_one(void *context)
{
    csp_safetensors_entry entries[4];

    make_entries(entries);
    return csp_safetensors_write(context, entries, 4, NULL);
}

static void an_earlier_file_stays_whole(void *context)
{
    const bool fsync_of_folder_failed = strstr(csp_error_text(), "its folder") != NULL;
    csp_safetensors *file;

    assert_ok(csp_safetensors_open(context, &file));
    assert_int_equal(csp_safetensors_count(file), fsync_of_folder_failed ? 4 : 0);
    csp_safetensors_close(file);
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
}

static void every_failure_of_writing_keeps_the_earlier_file(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("faults"));
    assert_ok(csp_safetensors_write(path, NULL, 0, NULL));
    assert_true(walk_faults(write_one, an_earlier_file_stays_whole, path) >= 14);
}

static csp_status write_and_open_folder(void *context)
{
    csp_safetensors_entry entries[4];
    csp_safetensors_set *set;

    make_entries(entries);
    CSP_TRY(csp_safetensors_write_dir(context, entries, 4, 50, NULL));
    CSP_TRY(csp_safetensors_set_open(context, &set));
    csp_safetensors_set_close(set);
    return CSP_OK;
}

static void nothing_half_written(void *context)
{
    assert_int_equal(scratch_count(context, ".tmp."), 0);
}

static void every_failure_of_folders_has_a_message(void **state)
{
    char dir[512];

    (void)state;
    snprintf(dir, sizeof(dir), "%s", scratch_path("faultdir"));
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_true(walk_faults(write_and_open_folder, nothing_half_written, dir) >= 60);
}

static void a_real_model_is_read(void **state)
{
    char dir[512];
    csp_safetensors_set *set;
    const csp_safetensors_entry *embedding;

    (void)state;
    snprintf(dir, sizeof(dir), "%s", shared_path("models/stories260K"));
    assert_ok(csp_safetensors_set_open(dir, &set));
    embedding = csp_safetensors_set_find(set, "model.embed_tokens.weight");
    assert_non_null(embedding);
    assert_true(csp_tensor_is(&embedding->tensor, CSP_F32, 2, (int64_t[]) { 512, 64 }));
    csp_safetensors_set_close(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_worked_example_is_read),
        cmocka_unit_test(bad_headers_are_refused_with_the_tensor),
        cmocka_unit_test(bad_lengths_and_absent_files_are_refused),
        cmocka_unit_test(unusable_tensors_are_refused_only_when_asked_for),
        cmocka_unit_test(what_is_written_reads_back_in_order),
        cmocka_unit_test(unusable_entries_are_not_written),
        cmocka_unit_test(folders_read_back_whatever_the_shards),
        cmocka_unit_test(a_folder_written_again_in_the_other_way_is_the_new_one),
        cmocka_unit_test(indexes_that_lie_are_refused),
        cmocka_unit_test(damaged_files_are_refused_without_harm),
        cmocka_unit_test(a_source_gives_the_same_file_and_may_fail),
        cmocka_unit_test(every_failure_of_writing_keeps_the_earlier_file),
        cmocka_unit_test(every_failure_of_folders_has_a_message),
        cmocka_unit_test(a_real_model_is_read),
    };

    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
