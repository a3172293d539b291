/*
 * test_groups.c - some ranks as a communicator of their own: the same collectives among them, at
 * once with those of other groups and of all ranks, and one failure for all.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/comm.h"
#include "core/machine.h"
#include "support/ranks.h"

static csp_status join(csp_comm **out)
{
    const csp_comm_options options = { .timeout_s = 20.0 };
    csp_launch launch;

    signal(SIGTERM, SIG_IGN); // mpirun sends it to all as soon as one has been killed
    CSP_TRY(csp_launch_find(&launch));
    return csp_comm_create(&launch, &options, out);
}

/* Whole numbers, so that sums are exact: of rank of the whole, at place i. */
static float number_of(int rank, int64_t i)
{
    return (float)((rank + 1) * (1 + i % 97));
}

/* The sum over ranks first .. first+count-1. */
static float sum_of(int first, int count, int64_t i)
{
    float sum = 0.0f;

    for (int r = first; r < first + count; r++) {
        sum += number_of(r, i);
    }
    return sum;
}

/* All collectives of a group of consecutive ranks of the whole, and what they send. */
static int check_group(csp_comm *comm, csp_comm *group, int first)
{
    enum { MANY = 30011 };
    const int rank = csp_comm_rank(comm), size = csp_comm_size(group);
    const int own = csp_comm_rank(group);
    const csp_comm_traffic before = csp_comm_traffic_of(comm);
    static float data[MANY], all[MANY], part[MANY];
    int64_t bytes[4], counts[4], start = 0, total = 0, ticket, sent;

    RANK_CHECK(own == rank - first && size <= 4);
    for (int64_t i = 0; i < MANY; i++) {
        data[i] = number_of(rank, i);
    }
    RANK_TRY(csp_comm_reduce(group, data, CSP_F32, MANY, CSP_COMM_SUM, "sums"));
    for (int64_t i = 0; i < MANY; i++) {
        RANK_CHECK(data[i] == sum_of(first, size, i));
        data[i] = number_of(rank, i);
    }
    sent = csp_comm_traffic_of(group).sent - before.sent;
    RANK_CHECK(sent >= 4 * (MANY / size) * 2 * (size - 1) &&
               sent <= 4 * (MANY / size + 1) * 2 * (size - 1));
    for (int r = 0; r < size; r++) {
        counts[r] = 1000 + 10 * r;
        bytes[r] = 4 * counts[r];
        start += r < own ? counts[r] : 0;
        total += counts[r];
    }
    RANK_TRY(csp_comm_scatter_sum_start(group, data, part, CSP_F32, counts, "parts", &ticket));
    RANK_TRY(csp_comm_wait(group, ticket));
    for (int64_t i = 0; i < counts[own]; i++) {
        RANK_CHECK(part[i] == sum_of(first, size, start + i));
    }
    RANK_TRY(csp_comm_gather(group, data, all, bytes, "numbers"));
    for (int64_t i = 0, r = 0, at = 0; i < total; i++) {
        if (i == at + counts[r]) {
            at += counts[r++];
        }
        RANK_CHECK(all[i] == number_of(first + (int)r, i - at));
    }
    for (int root = 0; root < size; root++) {
        RANK_TRY(csp_comm_broadcast(group, all, sizeof(all), root, "weights"));
        memcpy(all, data, sizeof(all));
    }
    RANK_TRY(csp_comm_barrier(group, "here"));
    RANK_TRY(csp_comm_agree(group, first == 0 ? "a" : "b", "what only the group shares"));
    return 0;
}

/*
 * Collectives of all ranks, of this rank's group and of itself alone, under way together: each
 * gives what it would by itself, in whatever order they are waited for.
 */
static int check_mixed(csp_comm *comm, csp_comm *group, csp_comm *alone, int first)
{
    enum { ROUNDS = 15, COUNT = 5003 };
    const int rank = csp_comm_rank(comm), size = csp_comm_size(comm);
    csp_comm *const of[] = { comm, group, alone };
    const int from[] = { 0, first, rank }, ranks[] = { size, csp_comm_size(group), 1 };
    static float data[ROUNDS][COUNT];
    int64_t tickets[ROUNDS];

    for (int k = 0; k < ROUNDS; k++) {
        for (int64_t i = 0; i < COUNT; i++) {
            data[k][i] = number_of(rank, i + k);
        }
        RANK_TRY(csp_comm_reduce_start(of[k % 3], data[k], CSP_F32, k % 2 == 0 ? COUNT : 17,
                                       CSP_COMM_SUM, "mixed", &tickets[k]));
    }
    for (int k = 0; k < ROUNDS; k++) {
        const int j = (k * 4 + rank) % ROUNDS;

        /* Whichever handle is asked: tickets are those of the whole. */
        RANK_TRY(csp_comm_wait(of[k % 3], tickets[j]));
        for (int64_t i = 0; i < (j % 2 == 0 ? COUNT : 17); i++) {
            RANK_CHECK(data[j][i] == sum_of(from[j % 3], ranks[j % 3], i + j));
        }
    }
    return 0;
}

/* Groups of as many ranks; one of them is in more collectives than the others. */
static int check_all(int count)
{
    csp_comm *comm, *group, *same, *alone, *local, *inner;
    int rank, size, first;

    RANK_TRY(join(&comm));
    rank = csp_comm_rank(comm);
    size = csp_comm_size(comm);
    first = rank / count * count;
    count = count < size - first ? count : size - first;
    RANK_TRY(csp_comm_group(comm, first, count, &group));
    RANK_TRY(csp_comm_group(comm, rank, 1, &alone));
    RANK_CHECK(csp_comm_size(group) == count && csp_comm_size(alone) == 1);
    RANK_TRY(csp_comm_group(comm, first, count, &same));
    RANK_CHECK(same == group);
    RANK_TRY(csp_comm_group(group, csp_comm_rank(group), 1, &inner));
    RANK_CHECK(inner == alone);
    RANK_TRY(csp_comm_group_local(comm, &local));
    RANK_CHECK(csp_comm_size(local) == size && csp_comm_rank(local) == rank);
    RANK_TRY(csp_comm_group_local(group, &local));
    RANK_CHECK(local == group && csp_comm_local_size(group) == size);
    for (int i = 0; i < (first == 0 ? 5 : 1); i++) {
        RANK_CHECK(check_group(comm, group, first) == 0);
    }
    RANK_CHECK(check_mixed(comm, group, alone, first) == 0);
    RANK_CHECK(csp_comm_group(comm, (rank + 1) % size, 1, &same) == CSP_ERR_ARGUMENT);
    RANK_CHECK(csp_comm_group(comm, first, size + 1, &same) == CSP_ERR_ARGUMENT);
    RANK_CHECK(csp_comm_group(comm, -1, 2, &same) == CSP_ERR_ARGUMENT && same == group);
    csp_comm_destroy(comm);
    return 0;
}

/* Rank 1 is killed within a collective of ranks 0 and 1: ranks 2 and 3, in one of theirs, too. */
static int be_killed(int argument)
{
    enum { COUNT = 1 << 20 };
    csp_comm *comm, *group;
    csp_status status = CSP_OK;
    float *data = calloc(COUNT, sizeof(float));
    double begin = 0.0;
    int rank, failed, code;

    RANK_TRY(join(&comm));
    rank = csp_comm_rank(comm);
    RANK_TRY(csp_comm_group(comm, rank / 2 * 2, 2, &group));
    RANK_CHECK(data != NULL);
    for (int round = 0; status == CSP_OK && round < 100000; round++) {
        int64_t ticket;

        begin = csp_machine_seconds();
        RANK_TRY(csp_comm_reduce_start(group, data, CSP_F32, COUNT, CSP_COMM_SUM, "work", &ticket));
        if (rank == 1 && round == 5) {
            kill(getpid(), SIGKILL);
        }
        status = csp_comm_wait(group, ticket);
    }
    RANK_CHECK(status == CSP_ERR_COMM && csp_machine_seconds() - begin < 5.0);
    csp_comm_failure(group, &failed, &code);
    RANK_CHECK(failed == 1 && code == 1);
    RANK_CHECK(strstr(csp_error_text(), "work: rank 1 ") != NULL);
    RANK_CHECK(csp_comm_barrier(comm, "later") == CSP_ERR_COMM);
    csp_comm_destroy(comm);
    free(data);
    return 0;
}

/* mpirun kills the others a second later, who may not have come back from their body by then. */
static bool is_killed(const int *at, int size, int argument)
{
    for (int r = 0; r < size; r++) {
        const bool good = r == 1 ? WIFSIGNALED(at[r]) && WTERMSIG(at[r]) == SIGKILL : at[r] == 0;

        if (!good && at[r] != RANKS_UNKNOWN) {
            return false;
        }
    }
    return true;
}

/* A rank that fails alone is known to a group that it is not in. */
static int report(int argument)
{
    csp_comm *comm, *group;
    csp_status status = CSP_OK;
    int failed, code;

    RANK_TRY(join(&comm));
    RANK_TRY(csp_comm_group(comm, csp_comm_rank(comm) / 2 * 2, 2, &group));
    if (csp_comm_rank(comm) == 3) {
        csp_comm_report(group, 4, "the loss is not finite");
        csp_comm_destroy(comm);
        return 4;
    }
    for (int i = 0; i < 100000 && status == CSP_OK; i++) {
        status = csp_comm_barrier(group, "work");
    }
    csp_comm_failure(comm, &failed, &code);
    RANK_CHECK(status == CSP_ERR_COMM && failed == 3 && code == 4);
    csp_comm_destroy(comm);
    return 0;
}

static bool is_reported(const int *at, int size, int argument)
{
    bool all = at[3] == 4 << 8;

    for (int r = 0; r < 3; r++) {
        all = all && (at[r] == 0 || at[r] == RANKS_UNKNOWN);
    }
    return all;
}

/* Rank 1 starts its collectives in another order than rank 0: found, and no deadlock. */
static int differ(int argument)
{
    csp_comm *comm, *group;
    int64_t tickets[2];
    float x[4] = { 0 };
    bool other;

    RANK_TRY(join(&comm));
    other = csp_comm_rank(comm) == 1;
    RANK_TRY(csp_comm_group(comm, csp_comm_rank(comm) / 2 * 2, 2, &group));
    for (int i = 0; i < 2; i++) {
        RANK_TRY(csp_comm_reduce_start((i == 0) == other ? comm : group, x, CSP_F32, 4,
                                       CSP_COMM_SUM, "work", &tickets[i]));
    }
    RANK_CHECK(csp_comm_wait(comm, tickets[0]) == CSP_ERR_COMM ||
               csp_comm_wait(comm, tickets[1]) == CSP_ERR_COMM);
    RANK_CHECK(strstr(csp_error_text(), "belongs to another collective") != NULL);
    csp_comm_destroy(comm);
    return 0;
}

static int stay_alone(int argument)
{
    csp_comm *comm, *group, *local;
    const int64_t three = 3;
    char own[3] = "ab", all[3] = "";

    RANK_TRY(join(&comm));
    RANK_TRY(csp_comm_group(comm, 0, 1, &group));
    RANK_TRY(csp_comm_group_local(comm, &local));
    RANK_CHECK(local == group && csp_comm_rank(group) == 0 && csp_comm_size(group) == 1);
    RANK_TRY(csp_comm_gather(group, own, all, &three, "letters"));
    RANK_CHECK(strcmp(all, "ab") == 0);
    csp_comm_destroy(comm);
    return 0;
}

int main(int argc, char **argv)
{
    static const ranks_job jobs[] = {
        { .name = "pairs of four", .body = check_all, .size = 4, .argument = 2 },
        { .name = "two and one", .body = check_all, .size = 3, .argument = 2 },
        { .name = "all", .body = check_all, .size = 3, .argument = 3 },
        { .name = "alone", .body = stay_alone, .size = 1 },
        { .name = "killed", .body = be_killed, .size = 4, .limit_s = 20.0, .expect = is_killed },
        { .name = "reports", .body = report, .size = 4, .limit_s = 20.0, .expect = is_reported },
        { .name = "differs", .body = differ, .size = 4, .limit_s = 20.0 },
    };

    return ranks_main(argc, argv, jobs, (int)(sizeof(jobs) / sizeof(jobs[0])));
}
