/*
 * test_rendezvous.c - ranks that do not come, come twice, are of another job or version, and others
 * who find the port: each a sentence with what to do, in time.
 */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/hello.h"
#include "core/machine.h"
#include "support/ranks.h"

static int own_rank(void)
{
    return atoi(getenv("RANK"));
}

static csp_status join(double timeout_s, csp_comm **out)
{
    const csp_comm_options options = { .timeout_s = timeout_s };
    csp_launch launch;

    CSP_TRY(csp_launch_find(&launch));
    return csp_comm_create(&launch, &options, out);
}

/* Joining must fail with the status, words, and within the time. */
static int refused(double timeout_s, csp_status wanted, const char *words)
{
    const double begin = csp_machine_seconds();
    csp_comm *comm = NULL;
    const csp_status status = join(timeout_s, &comm);

    if (status != wanted || strstr(csp_error_text(), words) == NULL || comm != NULL) {
        fprintf(stderr, "rank %d: %s: %s\n", own_rank(), csp_status_name(status),
                status != CSP_OK ? csp_error_text() : "");
        return 1;
    }
    RANK_CHECK(csp_machine_seconds() - begin < 2.0 * timeout_s + 2.0);
    return 0;
}

/* Joining must work. */
static int joined(void)
{
    csp_comm *comm;

    RANK_TRY(join(20.0, &comm));
    RANK_TRY(csp_comm_barrier(comm, "here"));
    csp_comm_destroy(comm);
    return 0;
}

static int miss_one(int argument)
{
    if (own_rank() == 2) {
        return 0;
    }
    RANK_CHECK(refused(1.5, CSP_ERR_COMM, "rank 2 of 3 did not come to rank 0 within 1.") == 0);
    RANK_CHECK(strstr(csp_error_text(), " s: are they started, with the same MASTER_ADDR") != NULL);
    return 0;
}

static int miss_many(int argument)
{
    return own_rank() != 0
               ? 0
               : refused(1.0, CSP_ERR_COMM, "ranks 1, 2 and 3 of 4 did not come to rank 0");
}

static int miss_zero(int argument)
{
    char words[100];

    (void)snprintf(words, sizeof(words),
                   "rank 1 could not reach rank 0 at 127.0.0.1 port %s within",
                   getenv("MASTER_PORT"));
    return own_rank() == 0 ? 0 : refused(1.0, CSP_ERR_COMM, words);
}

static int miss_host(int argument)
{
    setenv("MASTER_ADDR", "no.such.host.invalid", 1);
    return own_rank() == 0
               ? 0
               : refused(1.0, CSP_ERR_COMM, "could not reach rank 0 at no.such.host.invalid port");
}

static int have_other_size(int argument)
{
    if (own_rank() == 1) {
        setenv("WORLD_SIZE", "3", 1);
    }
    return refused(10.0, CSP_ERR_CONFIG,
                   "rank 1 was started as one of 3 ranks, and rank 0 as one of 2");
}

static int come_twice(int argument)
{
    if (own_rank() == 2) {
        setenv("RANK", "1", 1);
    }
    return refused(10.0, CSP_ERR_CONFIG, "two processes were started as rank 1");
}

static int be_zero_too(int argument)
{
    if (own_rank() == 0) {
        return refused(1.0, CSP_ERR_COMM, "");
    }
    usleep(200 * 1000);
    setenv("RANK", "0", 1);
    return refused(1.0, CSP_ERR_COMM, "Address already in use: give another MASTER_PORT");
}

/* A connection to the port of the job. */
static csp_status call(int *fd)
{
    const double deadline = csp_machine_seconds() + 10.0;
    csp_status status;

    do {
        status = csp_socket_connect_name("localhost", atoi(getenv("MASTER_PORT")), deadline, fd);
    } while (status != CSP_OK && csp_machine_seconds() < deadline);
    return status;
}

/*
 * Others find the port: one is silent, one sends a page's name, one goes at once, one knows a
 * token.
 */
static int be_disturbed(int argument)
{
    static const char page[] = "GET / HTTP/1.1\r\nHost: of somebody else\r\n\r\n";
    const double deadline = csp_machine_seconds() + 10.0;
    csp_hello hello;
    char much[1000] = "";
    bool answered = true;
    int silent, loud, gone, other;

    if (own_rank() == 0) {
        return joined();
    }
    RANK_TRY(call(&silent));
    RANK_TRY(call(&loud));
    RANK_TRY(csp_socket_send(loud, page, sizeof(page), deadline));
    RANK_TRY(csp_socket_send(loud, much, sizeof(much), deadline));
    RANK_TRY(call(&gone));
    close(gone);
    csp_hello_fill(&hello, CSP_HELLO_DATA, 1, 2, NULL);
    RANK_TRY(call(&other));
    RANK_CHECK(csp_hello_send(other, &hello, deadline, &answered) == CSP_ERR_COMM &&
               !answered); // it hangs up
    return joined();
}

static int speak_other_protocol(int argument)
{
    csp_hello hello;
    bool answered = false;
    int fd;

    if (own_rank() == 0) {
        return refused(10.0, CSP_ERR_CONFIG, "a rank speaks protocol 99 and this one 1");
    }
    csp_hello_fill(&hello, CSP_HELLO_RENDEZVOUS, 1, 2, NULL);
    hello.protocol = 99;
    RANK_TRY(call(&fd));
    RANK_CHECK(csp_hello_send(fd, &hello, csp_machine_seconds() + 10.0, &answered) ==
                   CSP_ERR_CONFIG &&
               answered);
    RANK_CHECK(strstr(csp_error_text(), "start the same csplade on all machines") != NULL);
    return 0;
}

/* Rank 0 goes in the middle: after the others have said hello. */
static int lose_zero(int argument)
{
    int port, listener, fd;

    if (own_rank() != 0) {
        return refused(2.0, CSP_ERR_COMM, "is what listens there rank 0 of this job");
    }
    RANK_TRY(csp_socket_listen(atoi(getenv("MASTER_PORT")), &listener, &port));
    RANK_TRY(csp_socket_accept(listener, csp_machine_seconds() + 10.0, &fd));
    usleep(50 * 1000);
    return 0;
}

/* Rank 2 goes after its hello, and rank 1 has not come yet. */
static int go_early(int argument)
{
    csp_hello hello;
    int fd;

    if (own_rank() == 1) {
        return 0;
    }
    if (own_rank() == 2) {
        csp_hello_fill(&hello, CSP_HELLO_RENDEZVOUS, 2, 3, NULL);
        RANK_TRY(call(&fd));
        RANK_TRY(csp_socket_send(fd, &hello, sizeof(hello), csp_machine_seconds() + 10.0));
        return 0;
    }
    const double begin = csp_machine_seconds();

    RANK_CHECK(refused(20.0, CSP_ERR_COMM, "rank 2 of 3 has gone without a word") == 0);
    RANK_CHECK(csp_machine_seconds() - begin < 5.0);
    return 0;
}

static int name_ranks(int argument)
{
    bool absent[20] = { false };
    char text[160];

    absent[3] = true;
    RANK_CHECK(strcmp(csp_hello_list(absent, 20, text, sizeof(text)), "rank 3") == 0);
    absent[5] = true;
    RANK_CHECK(strcmp(csp_hello_list(absent, 20, text, sizeof(text)), "ranks 3 and 5") == 0);
    for (int r = 0; r < 20; r++) {
        absent[r] = true;
    }
    RANK_CHECK(strcmp(csp_hello_list(absent, 20, text, sizeof(text)),
                      "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 others") == 0);
    (void)csp_hello_list(absent, 20, text, 12);
    RANK_CHECK(strcmp(text, "ranks 0, 1,") == 0);
    return 0;
}

static int use_ipv6(int argument)
{
    const int fd = socket(AF_INET6, SOCK_STREAM, 0);
    const struct sockaddr_in6 name = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    const bool has_ipv6 = fd >= 0 && bind(fd, (const struct sockaddr *)&name, sizeof(name)) == 0;

    if (fd >= 0) {
        close(fd);
    }
    if (has_ipv6) {
        setenv("MASTER_ADDR", "::1", 1);
    }
    return joined();
}

int main(int argc, char **argv)
{
    static const ranks_job jobs[] = {
        { .name = "one does not come", .body = miss_one, .size = 3 },
        { .name = "nobody comes", .body = miss_many, .size = 4 },
        { .name = "rank 0 does not come", .body = miss_zero, .size = 2 },
        { .name = "no such host", .body = miss_host, .size = 2 },
        { .name = "another size", .body = have_other_size, .size = 2 },
        { .name = "a rank twice", .body = come_twice, .size = 3 },
        { .name = "rank 0 twice", .body = be_zero_too, .size = 2 },
        { .name = "disturbed", .body = be_disturbed, .size = 2 },
        { .name = "another protocol", .body = speak_other_protocol, .size = 2 },
        { .name = "rank 0 goes", .body = lose_zero, .size = 2 },
        { .name = "a rank goes", .body = go_early, .size = 3 },
        { .name = "list of ranks", .body = name_ranks, .size = 1 },
        { .name = "IPv6", .body = use_ipv6, .size = 3 },
    };

    return ranks_main(argc, argv, jobs, (int)(sizeof(jobs) / sizeof(jobs[0])));
}
