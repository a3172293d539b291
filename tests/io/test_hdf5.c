/* test_hdf5.c - tensors, attributes and strings through HDF5; same bytes; damage; full disks. */
#include "io/scratch.h"

#include <sys/resource.h>

#include "core/scalar.h"
#include "io/hdf5.h"

enum { MANY = 300000 };

static float floats[12];
static uint16_t halves[6];
static double doubles[2] = { 0.1, -1e300 };
static int32_t ints[3] = { INT32_MIN, 0, INT32_MAX };
static int64_t longs[2] = { INT64_MIN, INT64_MAX };
static uint8_t bytes8[5] = { 0, 1, 127, 128, 255 };
static float *many;

typedef struct named {
    const char *name;
    csp_tensor tensor;
} named;

static named tensors[9];

static int make_tensors(void **state)
{
    many = malloc(MANY * sizeof(*many));
    for (int i = 0; i < MANY; i++) {
        many[i] = (float)i * 0.25f;
    }
    for (int i = 0; i < 12; i++) {
        floats[i] = (float)i - 0.5f;
    }
    for (int i = 0; i < 6; i++) {
        halves[i] = csp_f32_to_bf16((float)i * 1.5f);
    }
    tensors[0] = (named) { "/model/model.layers.0.self_attn.q_proj.weight",
                           csp_tensor_view(floats, CSP_F32, 2, (int64_t[]) { 3, 4 }) };
    tensors[1] = (named) { "/model/model.norm.weight",
                           csp_tensor_view(halves, CSP_BF16, 1, (int64_t[]) { 6 }) };
    tensors[2] = (named) { "/half", csp_tensor_view(halves, CSP_F16, 2, (int64_t[]) { 3, 2 }) };
    tensors[3] = (named) { "/optim/v/x", csp_tensor_view(doubles, CSP_F64, 1, (int64_t[]) { 2 }) };
    tensors[4] =
        (named) { "/optim/m/x", csp_tensor_view(ints, CSP_I32, 3, (int64_t[]) { 1, 3, 1 }) };
    tensors[5] = (named) { "/longs", csp_tensor_view(longs, CSP_I64, 1, (int64_t[]) { 2 }) };
    tensors[6] = (named) { "/bytes", csp_tensor_view(bytes8, CSP_U8, 1, (int64_t[]) { 5 }) };
    tensors[7] = (named) { "/empty", csp_tensor_view(NULL, CSP_F32, 2, (int64_t[]) { 0, 7 }) };
    /* Chunks that divide neither dimension: 300,000 = 3 * 100,000. */
    tensors[8] = (named) { "/many", csp_tensor_view(many, CSP_F32, 2, (int64_t[]) { 3, 100000 }) };
    return scratch_make(state);
}

static int free_tensors(void **state)
{
    free(many);
    return scratch_remove(state);
}

static csp_status fill(csp_hdf5 *file, int count)
{
    static const char *const strings[] = { "d1", "", "\xC3\xBC nicode", "a longer one, of words" };

    for (int i = 0; i < count; i++) {
        CSP_TRY(csp_hdf5_write(file, tensors[i].name, &tensors[i].tensor));
    }
    CSP_TRY(csp_hdf5_set_i64(file, "/", "step", -5));
    CSP_TRY(csp_hdf5_set_i64s(file, "/meta", "shape", longs, 2));
    CSP_TRY(csp_hdf5_set_f64(file, "/meta/deep", "rate", 1e-4));
    CSP_TRY(csp_hdf5_set_text(file, "/meta", "config", "{\"a\": \"\xC3\xBC\"}"));
    CSP_TRY(csp_hdf5_set_text(file, "/", "empty", ""));
    CSP_TRY(csp_hdf5_write_strings(file, "/ids", strings, 4));
    CSP_TRY(csp_hdf5_write_strings(file, "/none", strings, 0));
    for (int i = 0; i < 3; i++) {
        CSP_TRY(csp_hdf5_append(file, "/grown", CSP_I64, longs, i == 1 ? 0 : 2));
    }
    return csp_hdf5_append(file, "/grown0", CSP_F32, NULL, 0);
}

static csp_status write_file(const char *path, int count)
{
    csp_hdf5 *file;
    csp_status status;

    CSP_TRY(csp_hdf5_create(path, &file));
    status = fill(file, count);
    if (status != CSP_OK) {
        csp_hdf5_close(file);
        return status;
    }
    return csp_hdf5_commit(file);
}

static void check_tensor(const csp_hdf5 *file, const char *name, const csp_tensor *want)
{
    csp_tensor got;
    void *data;

    assert_true(csp_hdf5_has(file, name));
    assert_ok(csp_hdf5_describe(file, name, &got));
    assert_null(got.data);
    assert_true(csp_tensor_is(&got, want->dtype, want->ndim, want->dim));
    data = malloc(csp_tensor_bytes(&got) + 1);
    got.data = data;
    assert_ok(csp_hdf5_read(file, name, &got));
    if (csp_tensor_bytes(want) > 0) {
        assert_memory_equal(data, want->data, csp_tensor_bytes(want));
    }
    free(data);
}

static void all_dtypes_and_shapes_read_back(void **state)
{
    csp_hdf5 *file;

    (void)state;
    assert_ok(write_file(scratch_path("all.h5"), 9));
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
    assert_ok(csp_hdf5_open(scratch_path("all.h5"), &file));
    for (int i = 0; i < 9; i++) {
        check_tensor(file, tensors[i].name, &tensors[i].tensor);
    }
    csp_hdf5_close(file);
    csp_hdf5_close(NULL);
}

static void attributes_and_strings_read_back(void **state)
{
    csp_hdf5 *file;
    int64_t value, values[2], count;
    double rate;
    char *text, **strings;

    (void)state;
    assert_ok(write_file(scratch_path("attributes.h5"), 1));
    assert_ok(csp_hdf5_open(scratch_path("attributes.h5"), &file));
    assert_ok(csp_hdf5_get_i64(file, "/", "step", &value));
    assert_int_equal(value, -5);
    assert_ok(csp_hdf5_get_i64s(file, "/meta", "shape", values, 2));
    assert_memory_equal(values, longs, sizeof(longs));
    assert_ok(csp_hdf5_get_f64(file, "/meta/deep", "rate", &rate));
    assert_true(rate == 1e-4);
    assert_ok(csp_hdf5_get_f64(file, "/", "step", &rate));
    assert_true(rate == -5.0);
    assert_ok(csp_hdf5_get_text(file, "/meta", "config", &text));
    assert_string_equal(text, "{\"a\": \"\xC3\xBC\"}");
    free(text);
    assert_ok(csp_hdf5_get_text(file, "/", "empty", &text));
    assert_string_equal(text, "");
    free(text);
    assert_true(csp_hdf5_has_attribute(file, "/meta", "config"));
    assert_false(csp_hdf5_has_attribute(file, "/meta", "other"));
    assert_false(csp_hdf5_has_attribute(file, "/other", "config"));
    assert_ok(csp_hdf5_read_strings(file, "/ids", &strings, &count));
    assert_int_equal(count, 4);
    assert_string_equal(strings[1], "");
    assert_string_equal(strings[2], "\xC3\xBC nicode");
    for (int i = 0; i < 4; i++) {
        free(strings[i]);
    }
    free(strings);
    assert_ok(csp_hdf5_read_strings(file, "/none", &strings, &count));
    assert_int_equal(count, 0);
    free(strings);
    csp_hdf5_close(file);
}

static void what_is_not_there_is_named(void **state)
{
    csp_hdf5 *file;
    csp_tensor t = csp_tensor_view(floats, CSP_F32, 2, (int64_t[]) { 4, 3 });
    int64_t value = 7, count = 7;
    char *text = NULL, **strings = NULL;
    double rate = 7;

    (void)state;
    assert_ok(write_file(scratch_path("named.h5"), 2));
    assert_ok(csp_hdf5_open(scratch_path("named.h5"), &file));
    assert_false(csp_hdf5_has(file, "/model/other"));
    assert_false(csp_hdf5_has(file, "/nowhere/at/all"));
    assert_int_equal(csp_hdf5_describe(file, "/model/other", &t), CSP_ERR_FORMAT);
    assert_error_has("named.h5: /model/other");
    assert_int_equal(csp_hdf5_read(file, tensors[0].name, &t), CSP_ERR_SHAPE);
    assert_error_has("is f32 (3,4), but f32 (4,3) is wanted");
    assert_int_equal(csp_hdf5_describe(file, "/ids", &t), CSP_ERR_FORMAT);
    assert_error_has("a type csplade does not read");
    assert_int_equal(csp_hdf5_describe(file, "/model", &t), CSP_ERR_FORMAT);
    assert_int_equal(csp_hdf5_read_strings(file, "/grown", &strings, &count), CSP_ERR_FORMAT);
    assert_error_has("not a list of strings");
    assert_int_equal(csp_hdf5_get_i64(file, "/", "other", &value), CSP_ERR_FORMAT);
    assert_error_has("attribute other of / is not there");
    assert_int_equal(csp_hdf5_get_i64(file, "/meta", "shape", &value), CSP_ERR_FORMAT);
    assert_error_has("another number of values");
    assert_int_equal(csp_hdf5_get_i64(file, "/meta/deep", "rate", &value), CSP_ERR_FORMAT);
    assert_error_has("another type");
    assert_int_equal(csp_hdf5_get_text(file, "/", "step", &text), CSP_ERR_FORMAT);
    assert_int_equal(csp_hdf5_get_f64(file, "/meta", "config", &rate), CSP_ERR_FORMAT);
    assert_true(value == 7 && count == 7 && rate == 7 && text == NULL && strings == NULL);
    /* A reader does not write. */
    assert_int_equal(csp_hdf5_set_i64(file, "/", "step", 1), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_hdf5_write(file, "/new", &tensors[0].tensor), CSP_ERR_ARGUMENT);
    csp_hdf5_close(file);
}

static void ranges_of_growing_datasets_are_read(void **state)
{
    csp_hdf5 *file;
    csp_tensor t;
    int64_t *all = malloc(50000 * sizeof(*all)), part[100];

    (void)state;
    for (int64_t i = 0; i < 50000; i++) {
        all[i] = i * i;
    }
    assert_ok(csp_hdf5_create(scratch_path("grow.h5"), &file));
    for (int64_t i = 0; i < 50000; i += 12500) {
        assert_ok(csp_hdf5_append(file, "/x/grow", CSP_I64, all + i, 12500));
    }
    assert_int_equal(csp_hdf5_append(file, "/x/grow", CSP_I32, ints, 3), CSP_ERR_ARGUMENT);
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("grow.h5"), &file));
    assert_ok(csp_hdf5_describe(file, "/x/grow", &t));
    assert_true(csp_tensor_is(&t, CSP_I64, 1, (int64_t[]) { 50000 }));
    assert_ok(csp_hdf5_read_range(file, "/x/grow", 16350, 100, part));
    assert_memory_equal(part, all + 16350, sizeof(part));
    assert_ok(csp_hdf5_read_range(file, "/x/grow", 50000, 0, part));
    assert_int_equal(csp_hdf5_read_range(file, "/x/grow", 49999, 2, part), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_hdf5_read_range(file, "/x/grow", -1, 2, part), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_hdf5_read_range(file, "/x/grow", INT64_MAX, INT64_MAX, part),
                     CSP_ERR_ARGUMENT);
    assert_int_equal(csp_hdf5_read_range(file, "/x/none", 0, 1, part), CSP_ERR_FORMAT);
    csp_hdf5_close(file);
    free(all);
}

static void long_texts_and_many_strings_read_back(void **state)
{
    enum { LONG = 200000, STRINGS = 20000 };
    char *text = malloc(LONG + 1), *back, **strings = malloc(STRINGS * sizeof(*strings)), **got;
    csp_hdf5 *file;
    int64_t count;

    (void)state;
    memset(text, 'x', LONG);
    text[LONG] = '\0';
    for (int i = 0; i < STRINGS; i++) {
        strings[i] = malloc(32);
        snprintf(strings[i], 32, "document-%d", i * 31);
    }
    assert_ok(csp_hdf5_create(scratch_path("long.h5"), &file));
    assert_ok(csp_hdf5_set_text(file, "/", "long", text));
    assert_ok(csp_hdf5_set_text(file, "/", "long", text)); /* replaced */
    assert_int_equal(csp_hdf5_set_text(file, "/", "bad", "\xFF"), CSP_ERR_ARGUMENT);
    assert_ok(csp_hdf5_append_strings(file, "/s", (const char *const *)strings, 5000));
    assert_ok(csp_hdf5_append_strings(file, "/s", (const char *const *)strings + 5000, 15000));
    assert_ok(csp_hdf5_commit(file));
    assert_ok(csp_hdf5_open(scratch_path("long.h5"), &file));
    assert_ok(csp_hdf5_get_text(file, "/", "long", &back));
    assert_string_equal(back, text);
    assert_ok(csp_hdf5_read_strings(file, "/s", &got, &count));
    assert_int_equal(count, STRINGS);
    for (int i = 0; i < STRINGS; i++) {
        assert_string_equal(got[i], strings[i]);
        free(strings[i]);
        free(got[i]);
    }
    csp_hdf5_close(file);
    free(got);
    free(strings);
    free(text);
    free(back);
}

static csp_status add_name(const char *name, void *context)
{
    char *all = context;

    snprintf(all + strlen(all), 256 - strlen(all), "%s ", name);
    return strcmp(name, "/optim/v/x") == 0 ? CSP_FAIL(CSP_ERR_DATA, "stop") : CSP_OK;
}

static void datasets_are_visited_in_order_of_their_names(void **state)
{
    csp_hdf5 *file;
    char all[256] = "";

    (void)state;
    assert_ok(write_file(scratch_path("visit.h5"), 5));
    assert_ok(csp_hdf5_open(scratch_path("visit.h5"), &file));
    assert_ok(csp_hdf5_visit(file, "/model", add_name, all));
    assert_string_equal(all,
                        "/model/model.layers.0.self_attn.q_proj.weight /model/model.norm.weight ");
    all[0] = '\0';
    assert_int_equal(csp_hdf5_visit(file, "/", add_name, all), CSP_ERR_DATA);
    assert_string_equal(strchr(all + 1, '/'), "/grown0 /half /ids "
                                              "/model/model.layers.0.self_attn.q_proj.weight "
                                              "/model/model.norm.weight /none /optim/m/x "
                                              "/optim/v/x ");
    all[0] = '\0';
    assert_ok(csp_hdf5_visit(file, "/nothing", add_name, all));
    assert_string_equal(all, "");
    csp_hdf5_close(file);
}

static void equal_content_gives_equal_bytes(void **state)
{
    char *one, *two;
    size_t one_bytes, two_bytes;

    (void)state;
    assert_ok(write_file(scratch_path("one.h5"), 9));
    sleep(2); /* a time anywhere in the file would show: HDF5's have seconds */
    assert_ok(write_file(scratch_path("another_name.h5"), 9));
    one = scratch_read(scratch_path("one.h5"), &one_bytes);
    two = scratch_read(scratch_path("another_name.h5"), &two_bytes);
    assert_int_equal(one_bytes, two_bytes);
    assert_memory_equal(one, two, one_bytes);
    free(one);
    free(two);
}

static void a_name_is_written_once(void **state)
{
    csp_hdf5 *file;

    (void)state;
    assert_ok(csp_hdf5_create(scratch_path("once.h5"), &file));
    assert_ok(csp_hdf5_write(file, "/a", &tensors[0].tensor));
    assert_int_equal(csp_hdf5_write(file, "/a", &tensors[0].tensor), CSP_ERR_ARGUMENT);
    assert_error_has("name already exists");
    assert_int_equal(csp_hdf5_write(file, "/a/b", &tensors[0].tensor), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_hdf5_write_strings(file, "/a", NULL, 0), CSP_ERR_ARGUMENT);
    csp_hdf5_close(file);
    assert_int_equal(access(scratch_path("once.h5"), F_OK), -1);
    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
}

static void files_that_are_not_complete_are_refused(void **state)
{
    csp_hdf5 *file = NULL, *open;
    char *bytes, part[600];
    size_t count;

    (void)state;
    assert_int_equal(csp_hdf5_open(scratch_path("absent.h5"), &file), CSP_ERR_IO);
    assert_error_has("absent.h5: cannot open");
    assert_int_equal(csp_hdf5_open(scratch_dir, &file), CSP_ERR_IO);
    scratch_text(scratch_path("text.h5"),
                 "this is not HDF5, but it is long enough to be looked at");
    assert_int_equal(csp_hdf5_open(scratch_path("text.h5"), &file), CSP_ERR_FORMAT);
    assert_error_has("not HDF5");
    scratch_text(scratch_path("text.h5"), "");
    assert_int_equal(csp_hdf5_open(scratch_path("text.h5"), &file), CSP_ERR_FORMAT);
    /* A writer's temporary, as a killed process would leave it. */
    assert_ok(csp_hdf5_create(scratch_path("killed.h5"), &open));
    assert_ok(fill(open, 9));
    snprintf(part, sizeof(part), "%s.tmp.%ld", scratch_path("killed.h5"), (long)getpid());
    bytes = scratch_read(part, &count);
    scratch_write(scratch_path("copy.h5"), bytes, count);
    free(bytes);
    csp_hdf5_close(open);
    assert_int_equal(csp_hdf5_open(scratch_path("copy.h5"), &file), CSP_ERR_FORMAT);
    assert_null(file);
}

/* Opens a file and reads everything that is in it. */
static csp_status read_one(const char *name, void *context)
{
    const csp_hdf5 *file = *(csp_hdf5 **)context;
    csp_tensor t;
    char **strings;
    int64_t count;
    csp_status status;

    if (csp_hdf5_describe(file, name, &t) != CSP_OK) {
        CSP_TRY(csp_hdf5_read_strings(file, name, &strings, &count));
        for (int64_t i = 0; i < count; i++) {
            free(strings[i]);
        }
        free(strings);
        return CSP_OK;
    }
    t.data = malloc(csp_tensor_bytes(&t) + 1);
    status = csp_hdf5_read(file, name, &t);
    free(t.data);
    return status;
}

static csp_status read_file(const char *path)
{
    csp_hdf5 *file;
    csp_status status;

    CSP_TRY(csp_hdf5_open(path, &file));
    status = csp_hdf5_visit(file, "/", read_one, &file);
    csp_hdf5_close(file);
    return status;
}

static void damaged_files_are_refused_without_harm(void **state)
{
    char *bytes, path[512];
    size_t count, step;

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("damage.h5"));
    assert_ok(write_file(path, 2));
    assert_ok(read_file(path));
    bytes = scratch_read(path, &count);
    /* All short lengths, those near the end, and some of the many between. */
    for (size_t cut = count - 1; cut < count; cut -= cut <= 1024 || cut + 64 > count ? 1 : 997) {
        assert_int_equal(truncate(path, (off_t)cut), 0);
        if (cut == count - 32) { /* just the seal is gone */
            assert_ok(read_file(path));
            continue;
        }
        assert_int_equal(read_file(path), CSP_ERR_FORMAT);
        assert_error_has("damage.h5");
    }
    scratch_write(path, bytes, count);
    step = count / 1000 + 1;
    for (size_t at = 0; at<count; at += at + 64> count ? 1 : step) {
        scratch_poke(path, at, (char)(bytes[at] ^ (1 << (at % 8))));
        assert_int_equal(read_file(path), CSP_ERR_FORMAT);
        scratch_poke(path, at, bytes[at]);
    }
    free(bytes);
}

static void without_a_seal_the_checksums_of_datasets_remain(void **state)
{
    char *bytes, path[512];
    size_t count, at = 0;

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("unsealed.h5"));
    assert_ok(write_file(path, 2));
    bytes = scratch_read(path, &count);
    count -= 32;
    assert_memory_equal(bytes + count, "csp-xxh3", 8);
    scratch_write(path, bytes, count);
    assert_ok(read_file(path));
    while (memcmp(bytes + at, floats, sizeof(floats)) != 0) {
        at++;
        assert_true(at + sizeof(floats) < count);
    }
    bytes[at + 5] ^= 1;
    scratch_write(path, bytes, count);
    assert_int_equal(read_file(path), CSP_ERR_FORMAT);
    assert_error_has("q_proj.weight");
    assert_error_has("Fletcher32");
    free(bytes);
}

static csp_status write_for_faults(void *context)
{
    return write_file(context, 4);
}

static void the_earlier_file_is_intact(void *context)
{
    const bool fsync_of_folder_failed = strstr(csp_error_text(), "its folder") != NULL;
    csp_hdf5 *file;

    assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
    assert_ok(csp_hdf5_open(context, &file));
    assert_int_equal(csp_hdf5_has(file, "/half"), fsync_of_folder_failed);
    csp_hdf5_close(file);
}

static void every_failure_of_writing_keeps_the_earlier_file(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("faults.h5"));
    assert_ok(write_file(path, 1));
    assert_true(walk_faults(write_for_faults, the_earlier_file_is_intact, path) >= 30);
}

static csp_status read_for_faults(void *context)
{
    return read_file(context);
}

static void every_failure_of_reading_has_a_message(void **state)
{
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("readfaults.h5"));
    assert_ok(write_file(path, 4));
    /* read_one turns a failing description into an attempt at strings, so it stays out of this. */
    assert_true(walk_faults(read_for_faults, NULL, path) >= 8);
}

static void a_full_disk_keeps_the_earlier_file(void **state)
{
    static const int shares[] = { 0, 1, 5, 20, 100, 300, 500, 700, 900, 970, 990, 999, 1000 };
    struct rlimit before, small;
    struct stat whole;
    char path[512];

    (void)state;
    snprintf(path, sizeof(path), "%s", scratch_path("full.h5"));
    assert_ok(write_file(path, 9));
    assert_int_equal(stat(path, &whole), 0);
    assert_ok(write_file(path, 1));
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        csp_status status;

        small = before;
        small.rlim_cur = (rlim_t)(whole.st_size - 1) * (rlim_t)shares[i] / 1000;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        status = write_file(path, 9);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, CSP_ERR_IO);
        assert_error_has("full.h5");
        assert_error_has("File too large");
        assert_int_equal(scratch_count(scratch_dir, ".tmp."), 0);
        assert_ok(read_file(path));
    }
    assert_ok(write_file(path, 9));
    assert_ok(read_file(path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_dtypes_and_shapes_read_back),
        cmocka_unit_test(attributes_and_strings_read_back),
        cmocka_unit_test(what_is_not_there_is_named),
        cmocka_unit_test(ranges_of_growing_datasets_are_read),
        cmocka_unit_test(long_texts_and_many_strings_read_back),
        cmocka_unit_test(datasets_are_visited_in_order_of_their_names),
        cmocka_unit_test(equal_content_gives_equal_bytes),
        cmocka_unit_test(a_name_is_written_once),
        cmocka_unit_test(files_that_are_not_complete_are_refused),
        cmocka_unit_test(damaged_files_are_refused_without_harm),
        cmocka_unit_test(without_a_seal_the_checksums_of_datasets_remain),
        cmocka_unit_test(every_failure_of_writing_keeps_the_earlier_file),
        cmocka_unit_test(every_failure_of_reading_has_a_message),
        cmocka_unit_test(a_full_disk_keeps_the_earlier_file),
    };

    return cmocka_run_group_tests(tests, make_tensors, free_tensors);
}
