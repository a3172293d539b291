/*
 * test_collectives.c - every collective between real processes against a computation in one, for
 * equality: sums are of float32 in double precision, in the order of ranks.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "support/ranks.h"

/* Beyond one slot for each other rank (comm/collectives.c), so that sums are formed in blocks. */
enum { LONG = 1200001 };

static csp_status join(csp_comm **out)
{
    const csp_comm_options options = { .timeout_s = 20.0 };
    csp_launch launch;

    CSP_TRY(csp_launch_find(&launch));
    return csp_comm_create(&launch, &options, out);
}

/* What rank has at place i of array number `array`: numbers of many sizes, so that order shows. */
static double value_of(int array, int rank, int64_t i)
{
    uint64_t x = (uint64_t)i * 0x9E3779B97F4A7C15u + (uint64_t)rank * 0xD1B54A32D192ED03u +
                 (uint64_t)array * 0x8CB92BA72F3D8DD7u;

    x ^= x >> 31;
    x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 29;
    return ldexp((double)(int64_t)(x >> 12) - ldexp(1.0, 51), (int)(x & 15) - 57);
}

static void put(csp_dtype dtype, void *data, int64_t i, double value)
{
    switch (dtype) {
    case CSP_F32:
        ((float *)data)[i] = (float)value;
        break;
    case CSP_F64:
        ((double *)data)[i] = value;
        break;
    case CSP_I32:
        ((int32_t *)data)[i] = (int32_t)(value * 1e5);
        break;
    default:
        ((int64_t *)data)[i] = (int64_t)(value * 1e9);
        break;
    }
}

static double get(csp_dtype dtype, const void *data, int64_t i)
{
    return dtype == CSP_F32   ? (double)((const float *)data)[i]
           : dtype == CSP_F64 ? ((const double *)data)[i]
           : dtype == CSP_I32 ? (double)((const int32_t *)data)[i]
                              : (double)((const int64_t *)data)[i];
}

/* The value of one element over all ranks, each rounded to dtype first. */
static double combined(csp_dtype dtype, csp_comm_op op, int array, int size, int64_t i)
{
    double result = 0.0;

    for (int r = 0; r < size; r++) {
        int64_t one[1];
        double x;

        put(dtype, one, 0, value_of(array, r, i));
        x = get(dtype, one, 0);
        if (r == 0) {
            result = x;
        } else if (op == CSP_COMM_SUM) {
            result += x;
        } else {
            result = (op == CSP_COMM_MAX) == (x > result) ? x : result;
        }
    }
    if (dtype == CSP_F32) {
        result = (double)(float)result;
    }
    return result;
}

static int check_reduce(csp_comm *comm, csp_dtype dtype, csp_comm_op op, int64_t count)
{
    const int rank = csp_comm_rank(comm), size = csp_comm_size(comm);
    const size_t element = csp_dtype_bytes(dtype);
    const int array = (int)dtype * 8 + (int)op;
    const csp_comm_traffic before = csp_comm_traffic_of(comm);
    csp_comm_traffic after;
    char *data = malloc((size_t)count * element + 8);
    int64_t parts = 0;

    RANK_CHECK(data != NULL);
    for (int64_t i = 0; i < count; i++) {
        put(dtype, data, i, value_of(array, rank, i));
    }
    memset(data + (size_t)count * element, 0x5a, 8);
    RANK_TRY(csp_comm_reduce(comm, data, dtype, count, op, "numbers"));
    for (int64_t i = 0; i < count; i++) {
        RANK_CHECK(get(dtype, data, i) == combined(dtype, op, array, size, i));
    }
    for (int i = 0; i < 8; i++) {
        RANK_CHECK(data[(size_t)count * element + (size_t)i] == 0x5a);
    }
    after = csp_comm_traffic_of(comm);
    /* Up to 8 KiB all goes to all; above, the others' parts out and the own one to the others. */
    if (count * (int64_t)element <= 8192) {
        parts = count * (size - 1);
    } else {
        const int64_t own = count / size + (rank < count % size);

        parts = (count - own) + own * (size - 1);
    }
    RANK_CHECK(after.sent - before.sent == parts * (int64_t)element);
    RANK_CHECK(after.calls - before.calls == 1);
    free(data);
    return 0;
}

static int check_reduces(csp_comm *comm)
{
    static const csp_dtype dtypes[] = { CSP_F32, CSP_F64, CSP_I32, CSP_I64 };
    static const csp_comm_op ops[] = { CSP_COMM_SUM, CSP_COMM_MAX, CSP_COMM_MIN };
    static const int64_t counts[] = { 0, 1, 3, 1024, 1025, 2048, 2049, 30011 };

    for (int d = 0; d < 4; d++) {
        for (int o = 0; o < 3; o++) {
            for (int c = 0; c < 8; c++) {
                RANK_CHECK(check_reduce(comm, dtypes[d], ops[o], counts[c]) == 0);
            }
        }
    }
    RANK_CHECK(check_reduce(comm, CSP_F32, CSP_COMM_SUM, LONG) == 0);
    return check_reduce(comm, CSP_F64, CSP_COMM_MAX, LONG);
}

/*
 * Whichever rank has the NaN, all get one, and in a sum too; other elements are not touched by it.
 */
static int check_nan(csp_comm *comm)
{
    const int rank = csp_comm_rank(comm), size = csp_comm_size(comm);

    for (int op = CSP_COMM_SUM; op <= CSP_COMM_MIN; op++) {
        for (int who = 0; who < size; who++) {
            float small[3] = { 1.0f, rank == who ? NAN : (float)rank, 2.0f };
            double large[4000];

            for (int i = 0; i < 4000; i++) {
                large[i] = rank == who && i == 2345 ? NAN : (double)rank;
            }
            RANK_TRY(csp_comm_reduce(comm, small, CSP_F32, 3, (csp_comm_op)op, "small"));
            RANK_TRY(csp_comm_reduce(comm, large, CSP_F64, 4000, (csp_comm_op)op, "large"));
            RANK_CHECK(isnan(small[1]) && !isnan(small[0]) && !isnan(small[2]));
            for (int i = 0; i < 4000; i++) {
                RANK_CHECK(isnan(large[i]) == (i == 2345));
            }
        }
    }
    return 0;
}

/* The bytes of rank r in a gather; some have none. */
static int64_t gather_bytes(int round, int r)
{
    return round == 0 ? 5 : round == 1 ? r * 3 : round == 2 ? (r == 1 ? 100003 : 0) : 70000 + r;
}

static unsigned char byte_of(int rank, int64_t i)
{
    return (unsigned char)(rank * 37 + i * 11 + i / 251);
}

/* root: of a collect; -1: a gather, which all have */
static int check_gather(csp_comm *comm, int round, int root, bool in_place)
{
    const bool gets = root < 0 || root == csp_comm_rank(comm);
    const int rank = csp_comm_rank(comm), size = csp_comm_size(comm);
    const csp_comm_traffic before = csp_comm_traffic_of(comm);
    int64_t bytes[16], total = 0, start = 0;
    unsigned char *all, *own;

    for (int r = 0; r < size; r++) {
        bytes[r] = gather_bytes(round, r);
        start += r < rank ? bytes[r] : 0;
        total += bytes[r];
    }
    all = calloc((size_t)total + 1, 1);
    own = in_place ? all + start : malloc((size_t)bytes[rank] + 1);
    RANK_CHECK(all != NULL && own != NULL);
    all[total] = 0x5a;
    for (int64_t i = 0; i < bytes[rank]; i++) {
        own[i] = byte_of(rank, i);
    }
    if (root < 0) {
        RANK_TRY(csp_comm_gather(comm, own, all, bytes, "bytes"));
    } else {
        RANK_TRY(csp_comm_collect(comm, own, gets ? all : NULL, bytes, root, "bytes"));
    }
    for (int64_t r = 0, at = 0; r < size; at += bytes[r], r++) {
        for (int64_t i = 0; i < bytes[r]; i++) {
            RANK_CHECK(all[at + i] == (gets || (in_place && r == rank) ? byte_of((int)r, i) : 0));
        }
    }
    RANK_CHECK(all[total] == 0x5a);
    RANK_CHECK(csp_comm_traffic_of(comm).sent - before.sent ==
               bytes[rank] * (root < 0 ? size - 1 : rank != root));
    RANK_CHECK(csp_comm_traffic_of(comm).received - before.received ==
               (gets ? total - bytes[rank] : 0));
    if (!in_place) {
        free(own);
    }
    free(all);
    return 0;
}

static int64_t scatter_count(int round, int r)
{
    return round == 0 ? 1 : round == 1 ? (r == 0 ? 0 : 1000 + r) : r == 1 ? 400003 : 12 * r;
}

static int check_scatter(csp_comm *comm, csp_dtype dtype, int round, bool in_place)
{
    const int rank = csp_comm_rank(comm), size = csp_comm_size(comm);
    const csp_comm_traffic before = csp_comm_traffic_of(comm);
    const size_t element = csp_dtype_bytes(dtype);
    int64_t counts[16], total = 0, start = 0;
    char *data, *out;

    for (int r = 0; r < size; r++) {
        counts[r] = scatter_count(round, r);
        start += r < rank ? counts[r] : 0;
        total += counts[r];
    }
    data = malloc((size_t)total * element + 1);
    out = in_place ? data + (size_t)start * element : malloc((size_t)counts[rank] * element + 1);
    RANK_CHECK(data != NULL && out != NULL);
    for (int64_t i = 0; i < total; i++) {
        put(dtype, data, i, value_of(99, rank, i));
    }
    {
        int64_t ticket;

        RANK_TRY(csp_comm_scatter_sum_start(comm, data, out, dtype, counts, "sums", &ticket));
        RANK_TRY(csp_comm_wait(comm, ticket));
    }
    for (int64_t i = 0; i < total; i++) {
        const bool is_own = i >= start && i < start + counts[rank];

        if (is_own) {
            RANK_CHECK(get(dtype, out, i - start) == combined(dtype, CSP_COMM_SUM, 99, size, i));
        } else {
            int64_t one[1];

            put(dtype, one, 0, value_of(99, rank, i));
            RANK_CHECK(get(dtype, data, i) == get(dtype, one, 0)); // only read
        }
    }
    RANK_CHECK(csp_comm_traffic_of(comm).sent - before.sent ==
               (total - counts[rank]) * (int64_t)element);
    RANK_CHECK(csp_comm_traffic_of(comm).received - before.received ==
               counts[rank] * (size - 1) * (int64_t)element);
    if (!in_place) {
        free(out);
    }
    free(data);
    return 0;
}

static int check_broadcast(csp_comm *comm, int root, int64_t bytes)
{
    const int rank = csp_comm_rank(comm);
    unsigned char *data = malloc((size_t)bytes + 1);

    RANK_CHECK(data != NULL);
    for (int64_t i = 0; i < bytes; i++) {
        data[i] = rank == root ? byte_of(root, i) : 0xee;
    }
    data[bytes] = 0x5a;
    RANK_TRY(csp_comm_broadcast(comm, data, bytes, root, "weights"));
    for (int64_t i = 0; i < bytes; i++) {
        RANK_CHECK(data[i] == byte_of(root, i));
    }
    RANK_CHECK(data[bytes] == 0x5a);
    free(data);
    return 0;
}

/* Many collectives at once, waited for in another order than they were started in. */
static int check_tickets(csp_comm *comm)
{
    enum { MANY = 12, COUNT = 5003 };
    const int rank = csp_comm_rank(comm), size = csp_comm_size(comm);
    static float data[MANY][COUNT];
    int64_t tickets[MANY];

    for (int k = 0; k < MANY; k++) {
        const int64_t count = k % 3 == 0 ? 17 : COUNT;

        for (int64_t i = 0; i < count; i++) {
            put(CSP_F32, data[k], i, value_of(200 + k, rank, i));
        }
        RANK_TRY(csp_comm_reduce_start(comm, data[k], CSP_F32, count, CSP_COMM_SUM, "many",
                                       &tickets[k]));
    }
    for (int k = 0; k < MANY; k++) {
        const int j = (k * 5 + rank) % MANY; // 5 and 12 have no common divisor
        const int64_t count = j % 3 == 0 ? 17 : COUNT;

        RANK_TRY(csp_comm_wait(comm, tickets[j]));
        for (int64_t i = 0; i < count; i++) {
            RANK_CHECK((double)data[j][i] == combined(CSP_F32, CSP_COMM_SUM, 200 + j, size, i));
        }
    }
    RANK_CHECK(csp_comm_wait(comm, tickets[0]) == CSP_ERR_ARGUMENT);
    return 0;
}

static int check_agree(csp_comm *comm)
{
    const int rank = csp_comm_rank(comm), last = csp_comm_size(comm) - 1;
    char text[100], wanted[200];

    RANK_TRY(csp_comm_agree(comm, "lr: 1e-3\nsteps: 20\n", "the config"));
    RANK_TRY(csp_comm_agree(comm, "", "nothing"));
    (void)snprintf(text, sizeof(text), "lr: 1e-3\nsteps: %d\nseed: 1\n", rank == last ? 30 : 20);
    RANK_CHECK(csp_comm_agree(comm, text, "the config") == CSP_ERR_CONFIG);
    (void)snprintf(wanted, sizeof(wanted),
                   "the config differs between ranks, first in line 2: rank 0 has \"steps: 20\", "
                   "rank %d has \"steps: 30\"",
                   last);
    RANK_CHECK(strcmp(csp_error_text(), wanted) == 0);
    (void)snprintf(text, sizeof(text), "a\n%s", rank == 0 ? "b\n" : "");
    RANK_CHECK(csp_comm_agree(comm, text, "the data") == CSP_ERR_CONFIG);
    RANK_CHECK(strstr(csp_error_text(), "in line 2: rank 0 has \"b\", rank 1 has \"\"") != NULL);
    return 0;
}

static int check_all(int argument)
{
    csp_comm *comm;
    int rank, size, failed, code;

    RANK_TRY(join(&comm));
    rank = csp_comm_rank(comm);
    size = csp_comm_size(comm);
    RANK_CHECK(csp_comm_traffic_of(comm).calls == 0 && csp_comm_traffic_of(comm).sent == 0);
    RANK_CHECK(csp_comm_local_rank(comm) == rank && csp_comm_local_size(comm) == size);
    RANK_CHECK(check_reduces(comm) == 0);
    RANK_CHECK(check_nan(comm) == 0);
    for (int round = 0; round < 4; round++) {
        RANK_CHECK(check_gather(comm, round, -1, false) == 0);
        RANK_CHECK(check_gather(comm, round, -1, true) == 0);
        RANK_CHECK(check_gather(comm, round, round % size, false) == 0);
        RANK_CHECK(check_gather(comm, round, (round + 1) % size, true) == 0);
    }
    for (int round = 0; round < 3; round++) {
        RANK_CHECK(check_scatter(comm, CSP_F32, round, round == 1) == 0);
        RANK_CHECK(check_scatter(comm, CSP_F32, round, round != 1) == 0);
        RANK_CHECK(check_scatter(comm, CSP_F64, round, true) == 0);
    }
    for (int root = 0; root < size; root++) {
        RANK_CHECK(check_broadcast(comm, root, 0) == 0);
        RANK_CHECK(check_broadcast(comm, root, 1) == 0);
        RANK_CHECK(check_broadcast(comm, root, 65536) == 0);
        RANK_CHECK(check_broadcast(comm, root, 65537) == 0);
    }
    RANK_TRY(csp_comm_barrier(comm, "all"));
    RANK_CHECK(check_tickets(comm) == 0);
    RANK_CHECK(check_agree(comm) == 0);
    RANK_CHECK(csp_comm_traffic_of(comm).busy_s > 0.0);
    csp_comm_failure(comm, &failed, &code);
    RANK_CHECK(failed == -1);
    csp_comm_destroy(comm);
    return 0;
}

/* A piece of more than 2^31 bytes; its pages are those of zeros until they are received into. */
static int check_huge(int argument)
{
    const int64_t bytes[] = { (1LL << 31) + 4099, 3 };
    csp_comm *comm;
    char *all;

    if (getenv("CSPLADE_SLOW_TESTS") == NULL) {
        return 0;
    }
    RANK_TRY(join(&comm));
    all = calloc((size_t)(bytes[0] + bytes[1]), 1);
    RANK_CHECK(all != NULL);
    if (csp_comm_rank(comm) == 0) {
        all[bytes[0] - 1] = 7;
    } else {
        all[bytes[0]] = 9;
    }
    RANK_TRY(
        csp_comm_gather(comm, csp_comm_rank(comm) == 0 ? all : all + bytes[0], all, bytes, "much"));
    RANK_CHECK(all[bytes[0] - 1] == 7 && all[bytes[0]] == 9 && all[bytes[0] - 2] == 0);
    free(all);
    csp_comm_destroy(comm);
    return 0;
}

static int check_versions(int argument)
{
    csp_comm_options options = { .timeout_s = 10.0 };
    csp_launch launch;
    csp_comm *comm;

    RANK_TRY(csp_launch_find(&launch));
    options.version = launch.rank == 1 ? "2.0" : "1.0";
    RANK_CHECK(csp_comm_create(&launch, &options, &comm) == CSP_ERR_CONFIG);
    RANK_CHECK(strstr(csp_error_text(), "different versions of csplade: rank 0") != NULL);
    RANK_CHECK(strstr(csp_error_text(), "has 1.0, rank 1") != NULL);
    return 0;
}

int main(int argc, char **argv)
{
    static const ranks_job jobs[] = {
        { .name = "two", .body = check_all, .size = 2, .limit_s = 120.0 },
        { .name = "three", .body = check_all, .size = 3, .limit_s = 120.0 },
        { .name = "four", .body = check_all, .size = 4, .limit_s = 120.0 },
        { .name = "huge", .body = check_huge, .size = 2, .limit_s = 300.0 },
        { .name = "versions", .body = check_versions, .size = 3 },
    };

    return ranks_main(argc, argv, jobs, (int)(sizeof(jobs) / sizeof(jobs[0])));
}
