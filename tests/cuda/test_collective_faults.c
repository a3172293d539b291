/*
 * test_collective_faults.c - a rank that dies, hangs, or cannot begin, while devices are in
 * collectives: the others end within the time, with a sentence that names it, and give back what
 * they have. On emulated devices, whose NCCL waits for ever for a rank that does not come.
 */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ranks_on_devices.h"

#include "core/machine.h"
#include "device.h"
#include "emulator/control.h"

/*
 * Seconds that ranks wait for one that is late, and for others; and that a failure may take to be
 * known, if it is not one of time.
 */
static const double timeout_s = 2.0, patient_s = 60.0, known_s = 8.0;

enum { N = 1000, ENDED = 9 };

/* What rank 1 does in place of the second collective. */
typedef enum deed {
    DIES,           /* it is killed before it comes                              */
    DIES_INSIDE,    /* it has come, and is killed                                */
    REPORTS,        /* it fails by itself, and says why                          */
    HANGS,          /* it does not come                                          */
    HANGS_INSIDE,   /* it has come, but its device does nothing                  */
    LOSES_THE_REST, /* its NCCL loses the connection                             */
    DEEDS
} deed;

static const char *const sentences[DEEDS] = {
    [DIES] = "killed, or crashed",
    [DIES_INSIDE] = "killed, or crashed",
    [REPORTS] = "failed with exit code 4: out of luck",
    [HANGS] = "did not come to \"second\" within 2 s",
    [HANGS_INSIDE] = "has waited for 2 s in \"second\", to which all ranks have come",
    [LOSES_THE_REST] = "could not communicate: NCCL: remote process exited",
};

static csp_status reduce(device_rank *d, const csp_tensor *t, const char *what)
{
    return csp_ranks_reduce(&d->ranks, t, CSP_COMM_SUM, what);
}

/* Does nothing more for the others, until they have found that out. */
static void hang(const device_rank *d)
{
    const double end = csp_machine_seconds() + timeout_s + known_s;

    while (!csp_comm_has_failed(d->comm) && csp_machine_seconds() < end) {
        usleep(20 * 1000);
    }
}

/* What the rank does that is to blame; ENDED of those that go on. */
static int do_deed(device_rank *d, const csp_tensor *t, deed which)
{
    usleep(500 * 1000); /* the others have seen the end of the first */
    switch (which) {
    case DIES:
        raise(SIGKILL);
        break;
    case DIES_INSIDE:
        RANK_TRY(reduce(d, t, "second"));
        raise(SIGKILL);
        break;
    case REPORTS:
        csp_ranks_abort(&d->ranks, CSP_FAIL(CSP_ERR_NUMERIC, "out of luck"));
        break;
    case HANGS:
        hang(d);
        break;
    case HANGS_INSIDE:
        RANK_TRY(reduce(d, t, "second"));
        hang(d);
        break;
    default:
        emu_nccl_break(1);
        RANK_TRY(reduce(d, t, "second"));
        RANK_CHECK(csp_backend_sync(d->be) == CSP_ERR_COMM);
    }
    return 0;
}

/* A rank that is not to blame: how it waits is drawn by its number. */
static int suffer(device_rank *d, csp_arena *arena, const csp_tensor *t, deed which)
{
    const double begin = csp_machine_seconds();
    const bool is_late = which == HANGS || which == HANGS_INSIDE;
    csp_arena other;
    csp_status status;
    float x[4];
    int rank, exit_code;

    status = reduce(d, t, "second");
    if (status == CSP_OK && d->ranks.rank == 2) {
        const csp_tensor front = csp_tensor_rows(t, 0, 4);

        status = csp_backend_download(d->be, &front, x);
    } else if (status == CSP_OK) {
        status = csp_backend_sync(d->be);
    }
    RANK_CHECK(status == CSP_ERR_COMM);
    RANK_CHECK(csp_machine_seconds() - begin < known_s + (is_late ? timeout_s : 0.0));
    if (strstr(csp_error_text(), sentences[which]) == NULL ||
        strstr(csp_error_text(), "rank ") == NULL) {
        fprintf(stderr, "rank %d: %s\n", d->ranks.rank, csp_error_text());
        return 1;
    }
    csp_comm_failure(d->comm, &rank, &exit_code);
    RANK_CHECK(which == HANGS_INSIDE ? rank == 0 || rank == 2 : rank == 1);
    RANK_CHECK(exit_code == (which == REPORTS ? 4 : 1));
    /* The same from every later call, and nothing waits. */
    RANK_CHECK(reduce(d, t, "third") == CSP_ERR_COMM);
    RANK_CHECK(strstr(csp_error_text(), sentences[which]) != NULL);
    RANK_TRY(csp_backend_sync(d->be));
    RANK_TRY(csp_backend_reserve(d->be, 4096, &other));
    csp_backend_release(d->be, &other);
    csp_backend_release(d->be, arena);
    device_rank_close(d);
    RANK_CHECK(csp_machine_seconds() - begin < 2.0 * known_s);
    return ENDED;
}

static int a_rank_fails(int which)
{
    const int64_t count = N;
    device_rank d;
    csp_arena arena;
    csp_tensor t;

    RANK_TRY(device_rank_open(&d, which == HANGS || which == HANGS_INSIDE ? timeout_s : patient_s));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 20, &arena));
    RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &t));
    RANK_TRY(csp_backend_zero(d.be, &t));
    RANK_TRY(reduce(&d, &t, "first"));
    RANK_TRY(csp_backend_sync(d.be));
    if (d.ranks.rank != 1) {
        return suffer(&d, &arena, &t, (deed)which);
    }
    RANK_CHECK(do_deed(&d, &t, (deed)which) == 0);
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

/* Rank 1 as it ended, the others as they must have. */
static bool others_have_ended(const int *at, int size, int argument)
{
    const bool dies = argument == DIES || argument == DIES_INSIDE;
    bool good = dies ? WIFSIGNALED(at[1]) && WTERMSIG(at[1]) == SIGKILL : at[1] == 0;

    for (int r = 0; r < size; r++) {
        good = good && (r == 1 || (WIFEXITED(at[r]) && WEXITSTATUS(at[r]) == ENDED));
    }
    return good;
}

/*
 * Rank 1 dies while two groups of devices are open, the first of which is in a collective and the
 * other's waits behind it: both end at once. NCCL ends none alone while another's kernels wait.
 */
static int two_groups_end_at_once(int argument)
{
    const double begin = csp_machine_seconds();
    const int64_t count = N;
    csp_pending pending[2] = { { 0 }, { 0 } };
    csp_ranks later;
    device_rank d;
    csp_arena arena;
    csp_tensor t[2];

    (void)argument;
    RANK_TRY(device_rank_open(&d, patient_s));
    RANK_TRY(csp_ranks_open(d.comm, d.be, &later));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 20, &arena));
    for (int i = 0; i < 2; i++) {
        csp_ranks *ranks = i == 0 ? &d.ranks : &later;

        RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &t[i]));
        RANK_TRY(csp_backend_zero(d.be, &t[i]));
        RANK_TRY(csp_ranks_reduce(ranks, &t[i], CSP_COMM_SUM, "first"));
        RANK_TRY(csp_backend_sync(d.be));
    }
    if (d.ranks.rank == 1) {
        usleep(500 * 1000); /* the others have seen the end of the first */
        raise(SIGKILL);
    }
    RANK_TRY(csp_ranks_reduce_start(&d.ranks, &t[0], CSP_COMM_SUM, "second", &pending[0]));
    RANK_TRY(csp_ranks_reduce_start(&later, &t[1], CSP_COMM_SUM, "second", &pending[1]));
    RANK_TRY(csp_ranks_finish(&d.ranks, &pending[0]));
    RANK_CHECK(csp_backend_sync(d.be) == CSP_ERR_COMM);
    RANK_CHECK(csp_ranks_finish(&later, &pending[1]) == CSP_ERR_COMM);
    csp_backend_release(d.be, &arena);
    csp_ranks_close(&later);
    device_rank_close(&d);
    RANK_CHECK(csp_machine_seconds() - begin < 2.0 * known_s);
    return ENDED;
}

/* A rank frees memory while a collective is under way that will never end. */
static int freed_meanwhile(int argument)
{
    const double begin = csp_machine_seconds();
    const int64_t count = N;
    csp_pending pending = { 0 };
    device_rank d;
    csp_arena arena;
    csp_tensor t;

    (void)argument;
    RANK_TRY(device_rank_open(&d, patient_s));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 20, &arena));
    RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &t));
    RANK_TRY(csp_backend_zero(d.be, &t));
    if (d.ranks.rank == 1) {
        raise(SIGKILL);
    }
    RANK_TRY(csp_ranks_reduce_start(&d.ranks, &t, CSP_COMM_SUM, "second", &pending));
    csp_backend_release(d.be, &arena);
    RANK_CHECK(csp_ranks_finish(&d.ranks, &pending) == CSP_ERR_COMM);
    device_rank_close(&d);
    RANK_CHECK(csp_machine_seconds() - begin < 2.0 * known_s);
    return ENDED;
}

/* What keeps rank 1 from being joined. */
typedef enum obstacle { NO_LIBRARY, OLD_LIBRARY, ONE_DEVICE, STAYS_AWAY, OBSTACLES } obstacle;

static int is_not_joined(int which)
{
    static const char *const words[OBSTACLES] = {
        [NO_LIBRARY] = "rank 1: cuda:1: several GPUs need NCCL, which cannot be opened",
        [OLD_LIBRARY] =
            "rank 1: cuda:1: several GPUs need NCCL 2.14 or later, and the libnccl.so.2 "
            "found is 2.10.3",
        [ONE_DEVICE] = "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 0",
        [STAYS_AWAY] = "did not come to \"devices\" within 2 s",
    };
    const double begin = csp_machine_seconds();
    const csp_status want = which == STAYS_AWAY ? CSP_ERR_COMM : CSP_ERR_DEVICE;
    device_rank d;

    RANK_TRY(device_rank_begin(&d, timeout_s, which == ONE_DEVICE ? 0 : -1));
    if (csp_comm_rank(d.comm) == 1) {
        if (which == STAYS_AWAY) {
            sleep((unsigned)(timeout_s + 1.0));
        } else if (which != ONE_DEVICE) {
            setenv("CSP_EMU_NCCL", which == NO_LIBRARY ? "0" : "21003", 1);
        }
    }
    RANK_CHECK(csp_ranks_open(d.comm, d.be, &d.ranks) == want);
    if (strstr(csp_error_text(), words[which]) == NULL) {
        fprintf(stderr, "rank %d: %s\n", csp_comm_rank(d.comm), csp_error_text());
        return 1;
    }
    RANK_CHECK(csp_machine_seconds() - begin < known_s);
    device_rank_close(&d);
    return 0;
}

/* One rank never opens a library of collectives, even where there is none. */
static int needs_no_library(int argument)
{
    const int64_t count = N;
    csp_pending pending = { 0 };
    device_rank d;
    csp_arena arena;
    csp_tensor t;
    const char *name;

    (void)argument;
    setenv("CSP_EMU_NCCL", "0", 1);
    RANK_TRY(device_rank_open(&d, timeout_s));
    RANK_CHECK(cuda_state_of(d.be)->collectives.stream == NULL);
    RANK_TRY(csp_backend_reserve(d.be, 8192, &arena));
    RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &t));
    RANK_TRY(csp_ranks_reduce_start(&d.ranks, &t, CSP_COMM_SUM, "numbers", &pending));
    RANK_TRY(csp_ranks_finish(&d.ranks, &pending));
    RANK_CHECK(csp_collective_library(d.be, &name) == CSP_ERR_DEVICE);
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

static csp_status use_once(csp_backend *be, const csp_tensor *t)
{
    csp_collective_group group = { .size = 1, .watch = { never, say_words, NULL, 60.0 } };
    csp_collective_call call = {
        .kind = CSP_COLLECTIVE_SUM, .in = *t, .out = *t, .what = "numbers"
    };
    csp_collective *c = NULL;
    double seconds;
    int64_t ticket;
    csp_status status;

    CSP_TRY(csp_collective_make_id(be, &group.id));
    CSP_TRY(csp_collective_open(be, &group, &c));
    CSP_TRY_GOTO(csp_collective_start(be, c, &call, &ticket));
    CSP_TRY_GOTO(csp_collective_join(be, c, ticket));
    CSP_TRY_GOTO(csp_backend_sync(be));
    CSP_TRY_GOTO(csp_collective_waited(be, c, &seconds));

fail:
    csp_collective_close(be, c);
    return status;
}

/* Every call that may fail does once: a status and words, and nothing is left behind. */
static int every_call_fails(int argument)
{
    const int64_t count = N;
    csp_status status = CSP_ERR_DEVICE;
    csp_backend *be;
    csp_arena arena;
    csp_tensor t;

    (void)argument;
    devices_register();
    RANK_TRY(csp_backend_create("cuda:0", 1, &be));
    RANK_TRY(csp_backend_reserve(be, 8192, &arena));
    RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &t));
    RANK_TRY(csp_backend_zero(be, &t));
    for (int call = 1; status != CSP_OK; call++) {
        emu_fail_call(call);
        status = use_once(be, &t);
        emu_fail_call(0);
        RANK_CHECK(status == CSP_OK || csp_error_text()[0] != '\0');
        RANK_CHECK(cuda_state_of(be)->collectives.first == NULL);
        RANK_CHECK(call < 60);
    }
    csp_backend_release(be, &arena);
    csp_backend_destroy(be);
    return 0;
}

/* A pass in which a collective is begun is enqueued as it is, and never becomes a graph. */
typedef struct pass {
    device_rank *d;
    csp_tensor *t;
} pass;

static csp_status enqueue_pass(void *context)
{
    pass *p = context;

    CSP_TRY(csp_backend_zero(p->d->be, p->t));
    return reduce(p->d, p->t, "inside a pass");
}

static int outside_of_graphs(int argument)
{
    const int64_t count = N;
    const uint64_t key = 17;
    csp_pending pending = { 0 };
    device_rank d;
    csp_arena arena;
    csp_tensor t, other;
    pass p = { &d, &t };
    const csp_graph_call call = { .name = "a pass",
                                  .key = &key,
                                  .key_count = 1,
                                  .rows = 8,
                                  .enqueue = enqueue_pass,
                                  .context = &p };

    (void)argument;
    RANK_TRY(device_rank_open(&d, 60.0));
    RANK_TRY(csp_backend_reserve(d.be, (size_t)1 << 16, &arena));
    RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &t));
    RANK_TRY(csp_arena_tensor(&arena, CSP_F32, 1, &count, &other));
    RANK_TRY(csp_backend_zero(d.be, &other));
    for (int i = 0; i < 3; i++) {
        /* One that was begun before is under way meanwhile. */
        RANK_TRY(csp_ranks_reduce_start(&d.ranks, &other, CSP_COMM_SUM, "before", &pending));
        RANK_TRY(csp_graph_run(d.be, &call));
        RANK_TRY(csp_ranks_finish(&d.ranks, &pending));
        RANK_TRY(csp_backend_sync(d.be));
    }
    RANK_CHECK(d.be->replayed == 0);
    csp_backend_release(d.be, &arena);
    device_rank_close(&d);
    return 0;
}

int main(int argc, char **argv)
{
    static const ranks_job jobs[] = {
        { "dies", a_rank_fails, 3, DIES, false, 60.0, others_have_ended },
        { "dies_inside", a_rank_fails, 3, DIES_INSIDE, false, 60.0, others_have_ended },
        { "reports", a_rank_fails, 3, REPORTS, false, 60.0, others_have_ended },
        { "hangs", a_rank_fails, 3, HANGS, false, 60.0, others_have_ended },
        { "hangs_inside", a_rank_fails, 3, HANGS_INSIDE, false, 60.0, others_have_ended },
        { "loses_the_rest", a_rank_fails, 3, LOSES_THE_REST, false, 60.0, others_have_ended },
        { "two_groups", two_groups_end_at_once, 3, DIES, false, 60.0, others_have_ended },
        { "freed_meanwhile", freed_meanwhile, 2, DIES, false, 60.0, others_have_ended },
        { "no_library", is_not_joined, 2, NO_LIBRARY, false, 0.0, NULL },
        { "old_library", is_not_joined, 2, OLD_LIBRARY, false, 0.0, NULL },
        { "one_device", is_not_joined, 2, ONE_DEVICE, false, 0.0, NULL },
        { "stays_away", is_not_joined, 2, STAYS_AWAY, false, 0.0, NULL },
        { "needs_no_library", needs_no_library, 1, 0, false, 0.0, NULL },
        { "every_call_fails", every_call_fails, 1, 0, false, 0.0, NULL },
        { "outside_of_graphs", outside_of_graphs, 2, 0, false, 0.0, NULL },
    };
    char *way[] = { argv[0], (char *)"tcp", argc > 2 ? argv[2] : NULL };

    setenv("CSP_EMU_DEVICES", "3", 1);
    return ranks_main(way[2] != NULL ? 3 : 2, way, jobs, sizeof(jobs) / sizeof(jobs[0]));
}
