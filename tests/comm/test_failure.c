/*
 * test_failure.c - a rank is killed, hangs, is stopped, reports, leaves or does something else: the
 * others learn which it is and why, soon, and nobody waits for ever.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm.h"
#include "core/machine.h"
#include "support/ranks.h"

/* Seconds in which a failure must be known that is not one of time. */
static const double soon_s = 5.0;

static csp_status join(double timeout_s, double grace_s, csp_comm **out)
{
    const csp_comm_options options = { .timeout_s = timeout_s, .grace_s = grace_s };
    csp_launch launch;

    signal(SIGTERM, SIG_IGN); // mpirun sends it to all as soon as one has been killed
    CSP_TRY(csp_launch_find(&launch));
    return csp_comm_create(&launch, &options, out);
}

static void pause_for(double seconds)
{
    const struct timespec pause = { .tv_sec = (time_t)seconds,
                                    .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9) };

    (void)nanosleep(&pause, NULL);
}

/* Whether the failure is that of rank with code, and the last message has the words. */
static int check_failure(csp_comm *comm, int rank, int code, const char *words)
{
    int failed_rank, failed_code;

    csp_comm_failure(comm, &failed_rank, &failed_code);
    if (failed_rank != rank || failed_code != code || strstr(csp_error_text(), words) == NULL) {
        fprintf(stderr, "rank %d, code %d: %s\n", failed_rank, failed_code, csp_error_text());
        return 1;
    }
    return 0;
}

/* One of the collectives, with some megabytes, as long as all goes well. */
enum { REDUCE, GATHER, SCATTER, BROADCAST, BARRIER, KINDS, COUNT = 1 << 20 };

static csp_status start_one(csp_comm *comm, int kind, float *data, float *out, int64_t *ticket)
{
    const int64_t counts[] = { COUNT / 4, COUNT / 2, COUNT / 4 }, bytes[] = { COUNT, 7, COUNT };

    switch (kind) {
    case REDUCE:
        return csp_comm_reduce_start(comm, data, CSP_F32, COUNT, CSP_COMM_SUM, "work", ticket);
    case GATHER:
        return csp_comm_gather_start(comm, data, out, bytes, "work", ticket);
    case SCATTER:
        return csp_comm_scatter_sum_start(comm, data, out, CSP_F32, counts, "work", ticket);
    case BROADCAST:
        return csp_comm_broadcast_start(comm, data, 4 * COUNT, 1, "work", ticket);
    default:
        return csp_comm_barrier_start(comm, "work", ticket);
    }
}

/* argument: kind of collective + 16 x rank that is killed in the middle of one. */
static int be_killed(int argument)
{
    const int kind = argument % 16, victim = argument / 16;
    csp_comm *comm;
    csp_status status = CSP_OK;
    float *data, *out;
    double begin = 0.0;

    RANK_TRY(join(20.0, 0.0, &comm));
    data = calloc(COUNT, sizeof(float));
    out = calloc(COUNT, sizeof(float));
    RANK_CHECK(data != NULL && out != NULL);
    for (int round = 0; status == CSP_OK && round < 100000; round++) {
        int64_t ticket;

        begin = csp_machine_seconds();
        RANK_TRY(start_one(comm, kind, data, out, &ticket));
        if (csp_comm_rank(comm) == victim && round == 5) {
            pause_for(1e-3);
            kill(getpid(), SIGKILL);
        }
        status = csp_comm_wait(comm, ticket);
    }
    RANK_CHECK(status == CSP_ERR_COMM);
    RANK_CHECK(csp_machine_seconds() - begin < soon_s);
    RANK_CHECK(check_failure(comm, victim, 1, "gone without a word") == 0);
    RANK_CHECK(strncmp(csp_error_text(), "work: rank ", 11) == 0);
    RANK_CHECK(csp_comm_barrier(comm, "later") == CSP_ERR_COMM);
    RANK_CHECK(check_failure(comm, victim, 1, "later: rank ") == 0);
    csp_comm_destroy(comm);
    free(data);
    free(out);
    return 0;
}

static bool is_killed(const int *at, int size, int argument)
{
    for (int r = 0; r < size; r++) {
        const bool good =
            r == argument / 16
                ? at[r] == RANKS_UNKNOWN || (WIFSIGNALED(at[r]) && WTERMSIG(at[r]) == SIGKILL)
                : at[r] == 0;

        if (!good) {
            return false;
        }
    }
    return true;
}

/* Rank 1 does not come; its own grace ends it. */
static int hang(int argument)
{
    csp_comm *comm;
    const double begin = csp_machine_seconds();

    RANK_TRY(join(3.0, 1.0, &comm));
    if (csp_comm_rank(comm) == 1) {
        pause_for(50.0);
        return 99;
    }
    RANK_CHECK(csp_comm_barrier(comm, "gradients") == CSP_ERR_COMM);
    RANK_CHECK(csp_machine_seconds() - begin < 3.0 + soon_s);
    RANK_CHECK(check_failure(comm, 1, 1, "did not come to \"gradients\" within 3 s") == 0);
    csp_comm_destroy(comm);
    return 0;
}

static bool is_ended(const int *at, int size, int argument)
{
    return at[0] == 0 && at[2] == 0 &&
           (at[1] == RANKS_UNKNOWN || (WIFEXITED(at[1]) && WEXITSTATUS(at[1]) == 1));
}

/* Rank 1 is stopped by the system, all of its threads. */
static int be_stopped(int argument)
{
    static const int64_t bytes[] = { sizeof(pid_t), sizeof(pid_t), sizeof(pid_t) };
    csp_comm *comm;
    pid_t own = getpid(), all[3];
    const double begin = csp_machine_seconds();
    int rank, code;

    RANK_TRY(join(3.0, 0.0, &comm));
    RANK_TRY(csp_comm_gather(comm, &own, all, bytes, "processes"));
    if (csp_comm_rank(comm) == 1) {
        raise(SIGSTOP);
        return 99;
    }
    RANK_CHECK(csp_comm_barrier(comm, "gradients") == CSP_ERR_COMM);
    RANK_CHECK(csp_machine_seconds() - begin < 3.0 + soon_s);
    csp_comm_failure(comm, &rank, &code);
    RANK_CHECK(rank == 1 && code == 1);
    csp_comm_destroy(comm);
    kill(all[1], SIGKILL);
    return 0;
}

static bool is_stopped(const int *at, int size, int argument)
{
    return is_killed(at, size, 16);
}

/*
 * A rank fails alone with exit code 4. argument: which; + 16: the others are in work of their own
 * and ask soon; + 32: they ask late, and end in good order before their grace is over.
 */
static int report(int argument)
{
    const int victim = argument % 16;
    const double work_s = argument >= 32 ? 3.0 : argument >= 16 ? 0.5 : 0.0;
    csp_comm *comm;
    char words[200], host[64] = "";
    double begin;

    RANK_TRY(join(20.0, 4.0, &comm));
    if (csp_comm_rank(comm) == victim) {
        int rank, code;

        csp_comm_report(comm, 4, "the loss is not finite");
        csp_comm_report(comm, 5, "nobody hears this");
        csp_comm_failure(comm, &rank, &code);
        RANK_CHECK(rank == victim && code == 4);
        RANK_CHECK(!csp_comm_failed_alike(comm, 4, "the loss is not finite")); // it is the first
        csp_comm_destroy(comm);
        return 4;
    }
    pause_for(work_s);
    begin = csp_machine_seconds();
    RANK_CHECK(csp_comm_barrier(comm, "gradients") == CSP_ERR_COMM);
    RANK_CHECK(csp_machine_seconds() - begin < (work_s > 0.0 ? 1.0 : soon_s));
    gethostname(host, sizeof(host) - 1);
    (void)snprintf(words, sizeof(words), " on %s) failed with exit code 4: the loss is not finite",
                   host);
    RANK_CHECK(check_failure(comm, victim, 4, words) == 0);
    RANK_CHECK(csp_comm_await_failure(comm, 0.0));
    RANK_CHECK(csp_comm_failed_alike(comm, 4, "the loss is not finite"));
    RANK_CHECK(!csp_comm_failed_alike(comm, 5, "the loss is not finite"));
    RANK_CHECK(!csp_comm_failed_alike(comm, 4, "the loss is"));
    csp_comm_destroy(comm);
    if (argument >= 32) {
        pause_for(2.0); // nothing is left that would end this process
    }
    return 0;
}

static bool is_reported(const int *at, int size, int argument)
{
    for (int r = 0; r < size; r++) {
        if (at[r] != (r == argument % 16 ? 4 << 8 : 0)) {
            return false;
        }
    }
    return true;
}

/* Rank 1 reports while the others are in work that does not come back. */
static int outlive(int argument)
{
    csp_comm *comm;

    RANK_TRY(join(20.0, 0.5, &comm));
    if (csp_comm_rank(comm) == 1) {
        csp_comm_report(comm, 4, "the loss is not finite");
        csp_comm_destroy(comm);
        return 4;
    }
    pause_for(50.0);
    return 99;
}

static bool is_outlived(const int *at, int size, int argument)
{
    for (int r = 0; r < size; r++) {
        if (at[r] != 4 << 8 && (r == 1 || at[r] != RANKS_UNKNOWN)) {
            return false;
        }
    }
    return true;
}

/* A rank ends well, to its own mind, while the others go on. */
static int leave(int argument)
{
    csp_comm *comm;

    RANK_TRY(join(20.0, 0.0, &comm));
    if (csp_comm_rank(comm) == argument) {
        return 0;
    }
    RANK_CHECK(csp_comm_barrier(comm, "gradients") == CSP_ERR_COMM);
    RANK_CHECK(check_failure(comm, argument, 1, "gone without a word") == 0);
    csp_comm_destroy(comm);
    return 0;
}

/* Rank 0 fails with collectives under way that no other rank comes to, and frees their memory. */
static int free_memory(int argument)
{
    enum { GATHERS = 8, BYTES = 4 << 20 };
    static const int64_t bytes[] = { BYTES, BYTES, BYTES };
    csp_comm *comm;
    int64_t ticket;
    char *all[GATHERS];

    RANK_TRY(join(20.0, 0.0, &comm));
    if (csp_comm_rank(comm) != 0) {
        pause_for(0.5);
        RANK_CHECK(csp_comm_barrier(comm, "gradients") == CSP_ERR_COMM);
        RANK_CHECK(check_failure(comm, 0, 4, "the loss is not finite") == 0);
        csp_comm_destroy(comm);
        return 0;
    }
    for (int i = 0; i < GATHERS; i++) {
        all[i] = mmap(NULL, 4 * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        RANK_CHECK(all[i] != MAP_FAILED);
        RANK_TRY(csp_comm_gather_start(comm, all[i] + 3 * BYTES, all[i], bytes, "work", &ticket));
    }
    csp_comm_report(comm, 4, "the loss is not finite");
    csp_comm_settle(comm);
    for (int i = GATHERS - 1; i >= 0; i--) {
        munmap(all[i], 4 * BYTES);
    }
    csp_comm_destroy(comm);
    return 0;
}

/* Rank 1 is in another collective than the others, of the same size. */
static int differ(int argument)
{
    csp_comm *comm;
    float x[4] = { 0 };

    RANK_TRY(join(20.0, 0.0, &comm));
    RANK_CHECK(csp_comm_reduce(comm, x, CSP_F32, 4, CSP_COMM_SUM,
                               csp_comm_rank(comm) == 1 ? "documents" : "queries") == CSP_ERR_COMM);
    RANK_CHECK(strstr(csp_error_text(), "belongs to another collective") != NULL);
    csp_comm_destroy(comm);
    return 0;
}

/*
 * A rank is killed at some time, also while the ranks meet: the others fail, with or without a
 * communicator. argument: the rank + 4 x microseconds.
 */
static int be_killed_at(int argument)
{
    csp_comm *comm;
    csp_status status;
    int rank, code;

    if (atoi(getenv("RANK")) == argument % 4 && fork() == 0) {
        pause_for(argument / 4 * 1e-6);
        kill(getppid(), SIGKILL);
        _exit(0);
    }
    status = join(3.0, 0.0, &comm);
    if (status != CSP_OK) {
        RANK_CHECK(status == CSP_ERR_COMM);
        return 0;
    }
    while (status == CSP_OK) {
        status = csp_comm_barrier(comm, "work");
    }
    csp_comm_failure(comm, &rank, &code);
    RANK_CHECK(status == CSP_ERR_COMM && code == 1);
    RANK_CHECK(rank == argument % 4);
    csp_comm_destroy(comm);
    return 0;
}

/* Kills at 20 times, 200 where slow tests are asked for. Returns how many did not end well. */
static int kill_at_all_times(void)
{
    const int count = getenv("CSPLADE_SLOW_TESTS") != NULL ? 200 : 20;
    const double begin = csp_machine_seconds();
    int failed = 0;

    for (int i = 0; i < count; i++) {
        const int rank = i % 3, us = i * (60000 / count);
        int at[3];

        if (!ranks_run(be_killed_at, rank + 4 * us, 3, 20.0, at) || !is_killed(at, 3, 16 * rank)) {
            printf("FAILED rank %d killed after %d us: %#x %#x %#x\n", rank, us, (unsigned)at[0],
                   (unsigned)at[1], (unsigned)at[2]);
            failed++;
        }
    }
    printf("%-6s %d kills at any time, %.2f s\n", failed == 0 ? "ok" : "FAILED", count,
           csp_machine_seconds() - begin);
    return failed;
}

/* The end of one rank while the others have much to do is waited for. */
static int end_early(int argument)
{
    csp_comm *comm;

    RANK_TRY(join(20.0, 0.0, &comm));
    if (csp_comm_rank(comm) == 0) {
        pause_for(0.3);
    }
    csp_comm_destroy(comm);
    return 0;
}

/*
 * Collectives elsewhere, on devices: whoever has come to the fewest is the one that the others wait
 * for, whoever asks. argument: the rank that stays behind; -1: none does.
 */
static int wait_elsewhere(int argument)
{
    const double begin = csp_machine_seconds();
    csp_comm_traffic traffic;
    csp_comm *comm;
    int rank;

    RANK_TRY(join(2.0, 0.0, &comm));
    rank = csp_comm_rank(comm);
    csp_comm_count(comm, 100, 200);
    csp_comm_count_wait(comm, 0.5);
    traffic = csp_comm_traffic_of(comm);
    RANK_CHECK(traffic.sent == 100 && traffic.received == 200 && traffic.waited_s == 0.5);
    if (rank != argument) {
        csp_comm_count(comm, 0, 0);
    }
    pause_for(rank == 2 ? 1.0 : 3.0); // longer than the time between two words
    if (rank == 2) {
        RANK_CHECK(!csp_comm_has_failed(comm));
        RANK_CHECK(csp_comm_raise(comm, CSP_COMM_LATE, "gradients", "") == CSP_ERR_COMM);
    } else {
        RANK_CHECK(csp_comm_has_failed(comm));
        RANK_CHECK(csp_comm_raise(comm, CSP_COMM_FAILED, "gradients", "") == CSP_ERR_COMM);
    }
    RANK_CHECK(check_failure(comm, argument >= 0 ? argument : 2, 1,
                             argument >= 0 ? "did not come to \"gradients\" within 2 s"
                                           : "has waited for 2 s in \"gradients\", to which all "
                                             "ranks have come") == 0);
    csp_comm_destroy(comm);
    RANK_CHECK(csp_machine_seconds() - begin < 5.0 + soon_s);
    return 0;
}

/*
 * Pairs of four ranks, each with collectives of its own: rank 3 waits for rank 2, while rank 1 has
 * come to fewer than both, and nobody waits for it. argument: rank 2 has come, too, and hangs.
 */
static int wait_in_a_group(int argument)
{
    csp_comm *comm, *pair;
    int rank, came;

    RANK_TRY(join(2.0, 0.0, &comm));
    rank = csp_comm_rank(comm);
    RANK_TRY(csp_comm_group(comm, rank / 2 * 2, 2, &pair));
    came = rank == 3 || (rank == 2 && argument != 0) ? 3 : rank == 2 ? 2 : rank == 1 ? 0 : 1;
    for (int i = 0; i < came; i++) {
        csp_comm_count(pair, 0, 0);
    }
    if (rank == 3) {
        pause_for(1.0); // longer than the time between two words
    } else {
        RANK_CHECK(csp_comm_await_failure(comm, 8.0));
    }
    RANK_CHECK(csp_comm_raise(pair, rank == 3 ? CSP_COMM_LATE : CSP_COMM_FAILED, "queries", "") ==
               CSP_ERR_COMM);
    RANK_CHECK(check_failure(comm, argument != 0 ? 3 : 2, 1,
                             argument != 0 ? "has waited for 2 s in \"queries\", to which all "
                                             "ranks have come"
                                           : "did not come to \"queries\" within 2 s") == 0);
    csp_comm_destroy(comm);
    return 0;
}

/* What carries a collective elsewhere loses a rank: its end is the reason, if it has ended. */
static int lose_elsewhere(int argument)
{
    csp_comm *comm;

    RANK_TRY(join(20.0, 0.0, &comm));
    if (csp_comm_rank(comm) == 1 && argument != 0) {
        raise(SIGKILL);
    }
    if (csp_comm_rank(comm) == 0 || argument != 0) {
        RANK_CHECK(csp_comm_raise(comm, CSP_COMM_BROKEN, "gradients", "no route") == CSP_ERR_COMM);
    } else {
        RANK_CHECK(csp_comm_barrier(comm, "work") == CSP_ERR_COMM);
    }
    RANK_CHECK(check_failure(comm, argument != 0 ? 1 : 0, 1,
                             argument != 0 ? "killed, or crashed"
                                           : "could not communicate: no route") == 0);
    csp_comm_destroy(comm);
    return 0;
}

int main(int argc, char **argv)
{
#define KILLED(name, kind)                                                \
    { name, be_killed, 3, (kind), false, 20.0, is_killed },               \
    {                                                                     \
        name ", rank 2", be_killed, 3, (kind) + 32, true, 20.0, is_killed \
    }
    static const ranks_job jobs[] = {
        KILLED("killed in a reduce", REDUCE),
        KILLED("killed in a gather", GATHER),
        KILLED("killed in a scattered sum", SCATTER),
        KILLED("killed in a broadcast", BROADCAST),
        KILLED("killed in a barrier", BARRIER),
        { "hangs", hang, 3, 0, false, 20.0, is_ended },
        { "stopped", be_stopped, 3, 0, false, 20.0, is_stopped },
        { "reports", report, 3, 1, false, 20.0, is_reported },
        { "reports, rank 0", report, 3, 0, false, 20.0, is_reported },
        { "reports, others at work", report, 3, 16 + 2, false, 20.0, is_reported },
        { "reports, others ask late", report, 3, 32 + 1, true, 20.0, is_reported },
        { "reports, others hang", outlive, 3, 0, false, 20.0, is_outlived },
        { "leaves", leave, 3, 2, false, 20.0, NULL },
        { "leaves, rank 0", leave, 2, 0, false, 20.0, NULL },
        { "fails with work under way", free_memory, 3, 0, false, 20.0, NULL },
        { "differs", differ, 3, 0, false, 20.0, NULL },
        { "ends early", end_early, 4, 0, false, 20.0, NULL },
        { "late elsewhere", wait_elsewhere, 3, 1, false, 20.0, NULL },
        { "late elsewhere, rank 0", wait_elsewhere, 3, 0, false, 20.0, NULL },
        { "hangs elsewhere", wait_elsewhere, 3, -1, false, 20.0, NULL },
        { "late elsewhere in a group", wait_in_a_group, 4, 0, false, 20.0, NULL },
        { "hangs elsewhere in a group", wait_in_a_group, 4, 1, false, 20.0, NULL },
        { "lost elsewhere", lose_elsewhere, 3, 0, false, 20.0, NULL },
        { "killed elsewhere", lose_elsewhere, 3, 16, true, 20.0, is_killed },
    };

    if (argc == 2 && strcmp(argv[1], "tcp") == 0 && kill_at_all_times() != 0) {
        return 1;
    }
    return ranks_main(argc, argv, jobs, (int)(sizeof(jobs) / sizeof(jobs[0])));
}
