/*
 * test_collectives.c - collectives of devices: what comes out, on one device and on as many as this
 * machine has, up to four; that the stream of the backend waits for them where it must and the host
 * nowhere; and what they count. Inputs are whole numbers wherever an order of additions would show.
 */
#include <math.h>
#include <string.h>

#include "ranks_on_devices.h"

#include "device.h"

enum { MOST = 4, N = 1000, ROUNDS = 3 };

static const csp_dtype summed[] = { CSP_F32, CSP_F64, CSP_I32, CSP_I64 };

/* Element i of a rank's tensor; whole, and small enough for all sums to be exact. */
static int64_t number(int rank, int64_t i, int round)
{
    return (i * 7 + rank * 13 + round * 5) % 101 - 50;
}

static void put(csp_dtype dtype, void *data, int64_t i, int64_t value)
{
    switch (dtype) {
    case CSP_F32:
        ((float *)data)[i] = (float)value;
        break;
    case CSP_F64:
        ((double *)data)[i] = (double)value;
        break;
    case CSP_I32:
        ((int32_t *)data)[i] = (int32_t)value;
        break;
    case CSP_I64:
        ((int64_t *)data)[i] = value;
        break;
    case CSP_BF16:
        ((uint16_t *)data)[i] = (uint16_t)value;
        break;
    default:
        ((uint8_t *)data)[i] = (uint8_t)value;
    }
}

static void fill(csp_dtype dtype, void *data, int64_t count, int rank, int round)
{
    for (int64_t i = 0; i < count; i++) {
        put(dtype, data, i, number(rank, i, round));
    }
}

/* Host memory for what goes in, what comes out, and what should. */
static char host[3][8 * N * MOST];

/* A tensor of so many elements at a place in the arena of the test, filled from host[0]. */
static csp_status upload(csp_backend *be, csp_arena *arena, csp_dtype dtype, int64_t count,
                         csp_tensor *out)
{
    CSP_TRY(csp_arena_tensor(arena, dtype, 1, &count, out));
    return csp_backend_upload(be, host[0], out);
}

static bool came_out(csp_backend *be, const csp_tensor *t)
{
    return csp_backend_download(be, t, host[1]) == CSP_OK &&
           memcmp(host[1], host[2], csp_tensor_bytes(t)) == 0;
}

static int64_t combined_from(int first, csp_comm_op op, int size, int64_t i, int round)
{
    int64_t all = number(first, i, round);

    for (int r = first + 1; r < first + size; r++) {
        const int64_t one = number(r, i, round);

        all = op == CSP_COMM_SUM   ? all + one
              : op == CSP_COMM_MAX ? (one > all ? one : all)
                                   : (one < all ? one : all);
    }
    return all;
}

static int64_t combined(csp_comm_op op, int size, int64_t i, int round)
{
    return combined_from(0, op, size, i, round);
}

static csp_comm_traffic since(const device_rank *d, const csp_comm_traffic *before)
{
    csp_comm_traffic now = csp_comm_traffic_of(d->comm);

    now.sent -= before->sent;
    now.received -= before->received;
    return now;
}

static int reduce_all(device_rank *d, csp_arena *arena, int round)
{
    const int size = d->ranks.size;

    for (int kind = 0; kind < 12; kind++) {
        const csp_dtype dtype = summed[kind % 4];
        const csp_comm_op op = (csp_comm_op)(kind / 4);
        const csp_comm_traffic before = csp_comm_traffic_of(d->comm);
        const int64_t bytes = 2 * N * (int64_t)csp_dtype_bytes(dtype) * (size - 1) / size;
        csp_comm_traffic moved;
        csp_tensor t;

        fill(dtype, host[0], N, d->ranks.rank, round);
        for (int64_t i = 0; i < N; i++) {
            put(dtype, host[2], i, combined(op, size, i, round));
        }
        RANK_TRY(upload(d->be, arena, dtype, N, &t));
        RANK_TRY(csp_ranks_reduce(&d->ranks, &t, op, "numbers"));
        RANK_CHECK(came_out(d->be, &t));
        moved = since(d, &before);
        RANK_CHECK(moved.sent == bytes && moved.received == bytes);
    }
    return 0;
}

/* Whichever rank has a NaN or an infinity, all get one, and other elements are what they are. */
static int keep_nan(device_rank *d, csp_arena *arena, csp_dtype dtype, csp_comm_op op)
{
    const double best = op == CSP_COMM_MAX ? (double)INFINITY : -(double)INFINITY;

    for (int who = 0; who < d->ranks.size; who++) {
        const double mine[] = { who == d->ranks.rank ? (double)NAN : d->ranks.rank - 0.5,
                                who == d->ranks.rank ? best : d->ranks.rank - 0.5,
                                who == d->ranks.rank ? -(double)NAN : -best,
                                -best,
                                -0x1p-126 * (double)(d->ranks.rank + 1),
                                d->ranks.rank - 2.5 };
        enum { COUNT = sizeof(mine) / sizeof(mine[0]) };
        const int64_t last = d->ranks.size - 1;
        double got[COUNT];
        csp_tensor t;

        for (int i = 0; i < COUNT; i++) {
            if (dtype == CSP_F64) {
                ((double *)(void *)host[0])[i] = mine[i];
            } else {
                ((float *)(void *)host[0])[i] = (float)mine[i];
            }
        }
        RANK_TRY(upload(d->be, arena, dtype, COUNT, &t));
        RANK_TRY(csp_ranks_reduce(&d->ranks, &t, op, "numbers"));
        RANK_TRY(csp_backend_download(d->be, &t, host[1]));
        for (int i = 0; i < COUNT; i++) {
            got[i] = dtype == CSP_F64 ? ((double *)(void *)host[1])[i]
                                      : (double)((float *)(void *)host[1])[i];
        }
        RANK_CHECK(isnan(got[0]) && isnan(got[2]));
        RANK_CHECK(got[1] == best && got[3] == -best);
        RANK_CHECK(got[4] == (op == CSP_COMM_MAX ? -0x1p-126 : -0x1p-126 * (double)(last + 1)));
        RANK_CHECK(got[5] == (op == CSP_COMM_MAX ? (double)last - 2.5 : -2.5));
    }
    return 0;
}

/* How much each rank has: nothing, some, or as much as the others. */
static int64_t part_of(int rank, int round)
{
    return round == 0 ? N / 4 : (rank + round) % 3 * (N / 5) + rank;
}

static int gather_all(device_rank *d, csp_arena *arena, int round, csp_dtype dtype, bool in_place)
{
    const int64_t size = (int64_t)csp_dtype_bytes(dtype);
    const csp_comm_traffic before = csp_comm_traffic_of(d->comm);
    int64_t counts[MOST], total = 0, first = 0, mine = part_of(d->ranks.rank, round);
    csp_pending pending = { 0 };
    csp_comm_traffic moved;
    csp_tensor own, all;

    for (int r = 0; r < d->ranks.size; r++) {
        counts[r] = part_of(r, round);
        fill(dtype, host[2] + total * size, counts[r], r, round);
        first += r < d->ranks.rank ? counts[r] : 0;
        total += counts[r];
    }
    memset(host[0], 0x55, (size_t)(total * size));
    fill(dtype, host[0] + first * size, mine, d->ranks.rank, round);
    RANK_TRY(upload(d->be, arena, dtype, total, &all));
    own = csp_tensor_rows(&all, first, mine);
    if (!in_place) {
        fill(dtype, host[0], mine, d->ranks.rank, round);
        RANK_TRY(upload(d->be, arena, dtype, mine, &own));
    }
    RANK_TRY(csp_ranks_gather_start(&d->ranks, &own, &all, counts, "parts", &pending));
    RANK_TRY(csp_ranks_finish(&d->ranks, &pending));
    RANK_CHECK(came_out(d->be, &all));
    moved = since(d, &before);
    RANK_CHECK(moved.sent == (d->ranks.size - 1) * mine * size);
    RANK_CHECK(moved.received == (total - mine) * size);
    return 0;
}

static int scatter_all(device_rank *d, csp_arena *arena, int round, csp_dtype dtype, bool in_place)
{
    const int64_t size = (int64_t)csp_dtype_bytes(dtype);
    const csp_comm_traffic before = csp_comm_traffic_of(d->comm);
    int64_t counts[MOST], total = 0, first = 0, mine = part_of(d->ranks.rank, round);
    csp_comm_traffic moved;
    csp_tensor data, out;

    for (int r = 0; r < d->ranks.size; r++) {
        counts[r] = part_of(r, round);
        first += r < d->ranks.rank ? counts[r] : 0;
        total += counts[r];
    }
    fill(dtype, host[0], total, d->ranks.rank, round);
    for (int64_t i = 0; i < mine; i++) {
        put(dtype, host[2], i, combined(CSP_COMM_SUM, d->ranks.size, first + i, round));
    }
    RANK_TRY(upload(d->be, arena, dtype, total, &data));
    out = csp_tensor_rows(&data, first, mine);
    if (!in_place) {
        RANK_TRY(csp_arena_tensor(arena, dtype, 1, &mine, &out));
    }
    RANK_TRY(csp_ranks_scatter_sum(&d->ranks, &data, &out, counts, "sums"));
    RANK_CHECK(came_out(d->be, &out));
    moved = since(d, &before);
    RANK_CHECK(moved.sent == (total - mine) * size);
    RANK_CHECK(moved.received == (d->ranks.size - 1) * mine * size);
    return 0;
}

static int broadcast_all(device_rank *d, csp_arena *arena, csp_dtype dtype)
{
    for (int root = 0; root < d->ranks.size; root++) {
        csp_tensor t;

        fill(dtype, host[0], N, d->ranks.rank, 0);
        fill(dtype, host[2], N, root, 0);
        RANK_TRY(upload(d->be, arena, dtype, N, &t));
        RANK_TRY(csp_ranks_broadcast(&d->ranks, &t, root, "weights"));
        RANK_CHECK(came_out(d->be, &t));
    }
    return 0;
}

static int all_kinds(int argument)
{
    device_rank d;
    csp_arena arena;

    (void)argument;
    RANK_TRY(device_rank_open(&d, 60.0));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)4 << 20, &arena));
    for (int round = 0; round < ROUNDS; round++) {
        csp_arena_release(&arena, 0);
        RANK_CHECK(reduce_all(&d, &arena, round) == 0);
        for (int way = 0; way < 4; way++) {
            RANK_CHECK(keep_nan(&d, &arena, summed[way / 2],
                                way % 2 == 0 ? CSP_COMM_MAX : CSP_COMM_MIN) == 0);
        }
        for (int way = 0; way < 4; way++) {
            const csp_dtype copied = way / 2 == 0 ? CSP_I32 : CSP_BF16;

            RANK_CHECK(gather_all(&d, &arena, round, copied, way % 2 == 1) == 0);
            RANK_CHECK(scatter_all(&d, &arena, round, summed[way / 2], way % 2 == 1) == 0);
        }
        RANK_CHECK(broadcast_all(&d, &arena, round == 0 ? CSP_U8 : CSP_F32) == 0);
    }
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

/* Sums whose order shows: the same bits on all ranks, and in every run. */
static int same_bits(int argument)
{
    float *mine = (float *)(void *)host[0], *all = (float *)(void *)host[1];
    device_rank d;
    csp_arena arena;
    csp_tensor t;

    (void)argument;
    RANK_TRY(device_rank_open(&d, 60.0));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 20, &arena));
    for (int run = 0; run < 2; run++) {
        for (int64_t i = 0; i < N; i++) {
            mine[i] = 1.0f / (float)(1 + i * 3 + d.ranks.rank);
        }
        RANK_TRY(upload(d.be, &arena, CSP_F32, N, &t));
        RANK_TRY(csp_ranks_reduce(&d.ranks, &t, CSP_COMM_SUM, "numbers"));
        RANK_TRY(csp_backend_download(d.be, &t, host[1]));
        RANK_CHECK(run == 0 || memcmp(host[1], host[2], 4 * N) == 0);
        memcpy(host[2], host[1], 4 * N);
        RANK_TRY(csp_ranks_gather_host(&d.ranks, all, mine, 4 * N, "numbers"));
        for (int r = 0; r < d.ranks.size; r++) {
            RANK_CHECK(memcmp(mine + r * N, all, 4 * N) == 0);
        }
    }
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

/* Collectives run beside other work, several at once, and the host waits for none of them. */
static int beside(int argument)
{
    enum { TENSORS = 5 };
    csp_pending pending[TENSORS] = { { 0 } };
    csp_tensor t[TENSORS], copy[TENSORS];
    const int64_t count = N;
    csp_comm_traffic before;
    device_rank d;
    csp_arena arena;
    int64_t waits;

    (void)argument;
    RANK_TRY(device_rank_open(&d, 60.0));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 20, &arena));
    for (int i = 0; i < TENSORS; i++) {
        fill(CSP_F32, host[0], N, d.ranks.rank, i);
        RANK_TRY(upload(d.be, &arena, CSP_F32, N, &t[i]));
        RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &copy[i]));
    }
    waits = cuda_state_of(d.be)->waits;
    for (int i = 0; i < TENSORS; i++) {
        RANK_TRY(csp_ranks_reduce_start(&d.ranks, &t[i], CSP_COMM_SUM, "numbers", &pending[i]));
        RANK_TRY(csp_backend_zero(d.be, &copy[i]));
    }
    for (int i = TENSORS - 1; i >= 0; i--) {
        RANK_TRY(csp_ranks_finish(&d.ranks, &pending[i]));
        RANK_TRY(csp_ranks_finish(&d.ranks, &pending[i])); /* nothing is under way any more */
        RANK_TRY(csp_backend_copy(d.be, &t[i], &copy[i]));
        RANK_TRY(csp_backend_zero(d.be, &t[i]));
    }
    RANK_CHECK(cuda_state_of(d.be)->waits == waits);
    RANK_TRY(csp_backend_sync(d.be));
    for (int i = 0; i < TENSORS; i++) {
        for (int64_t j = 0; j < N; j++) {
            put(CSP_F32, host[2], j, combined(CSP_COMM_SUM, d.ranks.size, j, i));
        }
        RANK_CHECK(came_out(d.be, &copy[i]));
    }
    before = csp_comm_traffic_of(d.comm);
    RANK_TRY(csp_ranks_count_waits(&d.ranks));
    RANK_CHECK(csp_comm_traffic_of(d.comm).waited_s > before.waited_s);
    RANK_TRY(csp_ranks_count_waits(&d.ranks)); /* counted once */
    before = csp_comm_traffic_of(d.comm);
    RANK_TRY(csp_ranks_count_waits(&d.ranks));
    RANK_CHECK(csp_comm_traffic_of(d.comm).waited_s == before.waited_s);
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

/* Two groups over the same ranks, each with its own communicator. */
static int two_groups(int argument)
{
    csp_pending pending[2] = { { 0 } };
    csp_tensor t[2];
    csp_ranks second;
    device_rank d;
    csp_arena arena;

    (void)argument;
    RANK_TRY(device_rank_open(&d, 60.0));
    RANK_TRY(csp_ranks_open(d.comm, d.be, &second));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 20, &arena));
    for (int i = 0; i < 2; i++) {
        fill(CSP_F32, host[0], N, d.ranks.rank, i);
        RANK_TRY(upload(d.be, &arena, CSP_F32, N, &t[i]));
        RANK_TRY(csp_ranks_reduce_start(i == 0 ? &d.ranks : &second, &t[i], CSP_COMM_SUM, "numbers",
                                        &pending[i]));
    }
    for (int i = 1; i >= 0; i--) {
        RANK_TRY(csp_ranks_finish(i == 0 ? &d.ranks : &second, &pending[i]));
        for (int64_t j = 0; j < N; j++) {
            put(CSP_F32, host[2], j, combined(CSP_COMM_SUM, d.ranks.size, j, i));
        }
        RANK_CHECK(came_out(d.be, &t[i]));
    }
    csp_ranks_close(&second);
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

/*
 * Three groups with communicators of their own at once: all ranks, those of this machine, which are
 * all here, and pairs. Each rank begins the same in the same order, the pairs beside each other.
 */
static int groups_at_once(int argument)
{
    enum { GROUPS = 3 };
    csp_pending pending[GROUPS] = { { 0 } };
    csp_ranks groups[GROUPS];
    csp_comm *machine, *pair;
    csp_tensor t[GROUPS];
    device_rank d;
    csp_arena arena;

    (void)argument;
    RANK_TRY(device_rank_open(&d, 60.0));
    RANK_TRY(csp_comm_group_local(d.comm, &machine));
    RANK_TRY(csp_comm_group(d.comm, d.ranks.rank / 2 * 2, 2, &pair));
    groups[0] = d.ranks;
    RANK_TRY(csp_ranks_open(machine, d.be, &groups[1]));
    RANK_TRY(csp_ranks_open(pair, d.be, &groups[2]));
    RANK_CHECK(groups[1].size == d.ranks.size && groups[2].rank == d.ranks.rank % 2);
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 20, &arena));
    for (int round = 0; round < ROUNDS; round++) {
        csp_arena_release(&arena, 0);
        for (int i = 0; i < GROUPS; i++) {
            const int g = (i + round) % GROUPS;

            fill(CSP_F64, host[0], N, d.ranks.rank, g + round);
            RANK_TRY(upload(d.be, &arena, CSP_F64, N, &t[g]));
            RANK_TRY(
                csp_ranks_reduce_start(&groups[g], &t[g], CSP_COMM_SUM, "numbers", &pending[g]));
        }
        for (int g = 0; g < GROUPS; g++) {
            const int first = g == 2 ? d.ranks.rank / 2 * 2 : 0;

            RANK_TRY(csp_ranks_finish(&groups[g], &pending[g]));
            for (int64_t i = 0; i < N; i++) {
                put(CSP_F64, host[2], i,
                    combined_from(first, CSP_COMM_SUM, groups[g].size, i, g + round));
            }
            RANK_CHECK(came_out(d.be, &t[g]));
        }
    }
    csp_ranks_close(&groups[2]);
    csp_ranks_close(&groups[1]);
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

/* The library by itself: a group of one device, which training never makes. */
static int one_device(int argument)
{
    csp_collective_group group = { .size = 1, .watch = { never, say_words, NULL, 60.0 } };
    const int64_t count = N;
    csp_collective_call call = { .counts = &count, .what = "numbers" };
    csp_collective *c;
    csp_backend *be;
    csp_arena arena;
    csp_tensor in, out;
    const char *name;
    double seconds;
    int64_t ticket;

    (void)argument;
    devices_register();
    RANK_TRY(csp_backend_create("cuda:0", 1, &be));
    RANK_TRY(csp_collective_library(be, &name));
    RANK_CHECK(strncmp(name, "NCCL 2.", 7) == 0);
    RANK_TRY(csp_collective_make_id(be, &group.id));
    RANK_TRY(csp_collective_open(be, &group, &c));
    RANK_TRY(csp_backend_reserve(be, (size_t)1 << 20, &arena));
    for (int kind = CSP_COLLECTIVE_SUM; kind <= CSP_COLLECTIVE_BROADCAST; kind++) {
        const bool moves = kind == CSP_COLLECTIVE_GATHER || kind == CSP_COLLECTIVE_SCATTER_SUM;

        fill(CSP_F32, host[0], N, 0, kind);
        memcpy(host[2], host[0], 4 * N);
        RANK_TRY(upload(be, &arena, CSP_F32, N, &in));
        RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &out));
        call.kind = (csp_collective_kind)kind;
        call.in = in;
        call.out = moves ? out : in;
        RANK_TRY(csp_collective_start(be, c, &call, &ticket));
        RANK_TRY(csp_collective_join(be, c, ticket));
        RANK_CHECK(came_out(be, &call.out));
    }
    RANK_TRY(csp_collective_waited(be, c, &seconds));
    RANK_CHECK(seconds >= 0.0);
    csp_collective_close(be, c);
    csp_backend_release(be, &arena);
    csp_backend_destroy(be);
    return 0;
}

static bool refuses(csp_backend *be, csp_collective *c, const csp_collective_call *call,
                    csp_status status, const char *words)
{
    int64_t ticket = 77;

    return csp_collective_start(be, c, call, &ticket) == status && ticket == 77 &&
           strstr(csp_error_text(), words) != NULL;
}

static int refusals(int argument)
{
    csp_collective_group group = { .size = 1, .watch = { never, say_words, NULL, 60.0 } };
    const int64_t ten = 10, nine = 9, less = -1;
    csp_collective_call call = { .kind = CSP_COLLECTIVE_SUM, .counts = &ten, .what = "numbers" };
    csp_collective *c;
    csp_backend *be;
    csp_arena arena;
    csp_tensor wide, bf16;

    (void)argument;
    devices_register();
    RANK_TRY(csp_backend_create("cuda:0", 1, &be));
    RANK_TRY(csp_collective_make_id(be, &group.id));
    group.rank = 1;
    RANK_CHECK(csp_collective_open(be, &group, &c) == CSP_ERR_ARGUMENT);
    group.rank = 0;
    RANK_TRY(csp_collective_open(be, &group, &c));
    RANK_TRY(csp_backend_reserve(be, (size_t)1 << 16, &arena));
    RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &ten, &wide));
    RANK_TRY(csp_arena_tensor(&arena, CSP_BF16, 1, &ten, &bf16));
    call.in = call.out = bf16;
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_ARGUMENT, "not bf16"));
    call.in = wide;
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_SHAPE, "from f32 to bf16"));
    call.out = csp_tensor_rows(&wide, 0, 9);
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_SHAPE, "in place"));
    call.kind = CSP_COLLECTIVE_GATHER;
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_SHAPE, "not 10 and 9"));
    call.counts = &nine;
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_SHAPE, "9 elements"));
    call.counts = &less;
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_ARGUMENT, "-1 elements"));
    call.kind = CSP_COLLECTIVE_SCATTER_SUM;
    call.in = call.out = bf16;
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_ARGUMENT, "f32 and f64"));
    call.kind = CSP_COLLECTIVE_BROADCAST;
    call.root = 1;
    RANK_CHECK(refuses(be, c, &call, CSP_ERR_ARGUMENT, "from rank 1 of 1"));
    RANK_CHECK(csp_collective_join(be, c, 0) == CSP_ERR_ARGUMENT);
    csp_collective_close(be, c);
    csp_collective_close(be, NULL);
    csp_backend_release(be, &arena);
    csp_backend_destroy(be);
    return 0;
}

int main(int argc, char **argv)
{
    static const ranks_job jobs[] = {
        { .name = "one_device", .body = one_device, .size = 1 },
        { .name = "refusals", .body = refusals, .size = 1 },
        { .name = "all_kinds", .body = all_kinds, .size = 2 },
        { .name = "same_bits", .body = same_bits, .size = 2 },
        { .name = "beside", .body = beside, .size = 2 },
        { .name = "two_groups", .body = two_groups, .size = 2 },
        { .name = "groups_at_once", .body = groups_at_once, .size = 4 },
        { .name = "all_kinds_of_four", .body = all_kinds, .size = 4 },
        { .name = "same_bits_of_three", .body = same_bits, .size = 3 },
    };
    const int devices = device_count(MOST);
    char *way[] = { argv[0], (char *)"tcp", argc > 2 ? argv[2] : NULL };
    int failed = 0;

    if (devices == 0) {
        fprintf(stderr, "skipped: no device, or no NCCL\n");
        return NO_DEVICE;
    }
    for (size_t i = 0; i < sizeof(jobs) / sizeof(jobs[0]); i++) {
        if (jobs[i].size <= devices) {
            failed += ranks_main(way[2] != NULL ? 3 : 2, way, &jobs[i], 1);
        } else {
            printf("left out: %s, which needs %d devices\n", jobs[i].name, jobs[i].size);
        }
    }
    return failed == 0 ? 0 : 1;
}
