/* cmd_train.c - csplade train: runs the phases that a config names, or goes on with them. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/config_args.h"
#include "comm/comm.h"
#include "core/exit_code.h"
#include "core/log.h"
#include "io/file.h"
#include "train/trainer.h"

static const csp_option options[] = {
    { .name = "set",
      .kind = CSP_OPTION_LIST,
      .value = "KEY=VALUE",
      .help = "override a setting, such as contrastive.lambda_q=1e-4" },
    { .name = "resume",
      .kind = CSP_OPTION_TEXT,
      .value = "auto|none|PATH",
      .help =
          "the newest checkpoint of run.output_dir, a fresh start, or this checkpoint; in place "
          "of run.resume" },
    { .name = "device",
      .kind = CSP_OPTION_TEXT,
      .value = "auto|cpu|cuda|cuda:N",
      .help = "what computes, in place of device.name" },
    { .name = "base",
      .kind = CSP_OPTION_TEXT,
      .value = "DIR",
      .help =
          "of a LoRA checkpoint to go on from: the folder of its base model, where it is not the "
          "one recorded; checked by its hash, and recorded from then on" },
    { .name = "dry-run",
      .kind = CSP_OPTION_FLAG,
      .help = "check everything, open model and data, print the plan and the first batch; write "
              "nothing" },
};

/* After the failure of a rank, for the others to end by themselves. */
#define GRACE_S 10.0

/* For rank 0 to find what another rank has found wrong, and to be the one that says it. */
#define ALIKE_S 0.5

/* For the others to come where this rank has nothing to tell but that its config is wrong. */
#define WRONG_CONFIG_S 30.0

static volatile sig_atomic_t stop_asked, save_asked, meeting;

/* While ranks meet there is nothing to save, and one that never comes would hold them for long. */
static void stop_meeting(void)
{
    static const char text[] = "csplade: stopped before the ranks met: nothing to save\n";

    if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        /* Nobody reads. */
    }
    _exit(csp_exit_code(CSP_ERR_INTERRUPTED));
}

/* SIGTERM, SIGINT, SIGUSR2: a checkpoint at the next step, then the end; SIGINT again: at once. */
static void on_stop(int number)
{
    static const char text[] =
        "\ncsplade: stopping after this step with a checkpoint; Ctrl-C again "
        "stops at once\n";

    if (meeting != 0) {
        stop_meeting();
    }
    if (number == SIGINT && stop_asked != 0) {
        _exit(130);
    }
    if (number == SIGINT && write(STDERR_FILENO, text, sizeof(text) - 1) < 0) {
        /* Nobody reads: the run stops all the same. */
    }
    stop_asked = 1;
}

static void on_save(int number)
{
    (void)number;
    save_asked = 1;
}

static void install(int number, void (*handler)(int))
{
    struct sigaction action;

    memset(&action, 0, sizeof(action));
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    sigaction(number, &action, NULL);
}

static void install_handlers(void)
{
    install(SIGTERM, on_stop);
    install(SIGINT, on_stop);
    install(SIGUSR2, on_stop);
    install(SIGUSR1, on_save);
}

static const csp_config_option stand_for[] = { { "resume", "run.resume" },
                                               { "device", "device.name" } };

/* RUN/failure.rankN.json; NULL where there is no folder yet: nothing has been begun. */
static char *failure_path(const csp_config *config, int rank)
{
    char name[48];
    char *path = NULL;

    snprintf(name, sizeof(name), "failure.rank%d.json", rank);
    return config != NULL && config->run.output_dir != NULL &&
                   csp_file_is_dir(config->run.output_dir) &&
                   csp_file_join(config->run.output_dir, name, &path) == CSP_OK
               ? path
               : NULL;
}

/* Why this rank ends, for whoever looks for the first one of many. A help, so it may fail. */
static void write_failure(const csp_config *config, csp_comm *comm, csp_status status, int code,
                          const char *reason)
{
    char *path = failure_path(config, csp_comm_rank(comm)), host[256] = "", *text;
    int first, first_code;
    json_t *all;

    csp_comm_failure(comm, &first, &first_code);
    (void)gethostname(host, sizeof(host) - 1);
    all = json_pack("{s:i,s:i,s:s,s:i,s:i,s:s,s:s,s:i}", "rank", csp_comm_rank(comm), "ranks",
                    csp_comm_size(comm), "host", host, "pid", (int)getpid(), "exit_code", code,
                    "status", csp_status_name(status), "reason", reason, "first_rank",
                    first >= 0 ? first : csp_comm_rank(comm));
    text = all != NULL ? json_dumps(all, JSON_INDENT(2)) : NULL;
    if (path != NULL && text != NULL &&
        csp_file_write(path, text, (int64_t)strlen(text)) != CSP_OK) {
        csp_log(CSP_LOG_WARN, "train", "%s", csp_error_text());
    }
    free(text);
    json_decref(all);
    free(path);
}

/*
 * A rank that fails tells the others, which end with its exit code; each leaves a file. The failing
 * rank and rank 0 say why on stderr; what all have found alike, rank 0 alone, or, where rank 0 took
 * long to find it, also the rank that was first.
 */
static csp_status fail_together(const csp_config *config, csp_comm *comm, csp_status status)
{
    const int own = csp_comm_rank(comm);
    char reason[1024];
    int rank = -1, code = csp_exit_code(status);

    snprintf(reason, sizeof(reason), "%s", csp_error_text());
    if (status == CSP_ERR_INTERRUPTED) { /* all of them stop, in order, and rank 0 says so */
        return CSP_FAIL(status, "%s", own == 0 ? reason : "");
    }
    if (status == CSP_ERR_COMM) {
        csp_comm_failure(comm, &rank, &code);
        status = csp_status_of_exit_code(code);
    } else {
        if (own != 0) {
            (void)csp_comm_await_failure(comm, ALIKE_S);
        }
        csp_comm_report(comm, code, reason);
    }
    write_failure(config, comm, status, code, reason);
    if (own != 0 && (rank >= 0 || csp_comm_failed_alike(comm, code, reason))) {
        reason[0] = '\0'; /* said by the rank that failed, and by rank 0 */
    }
    return CSP_FAIL(status, "%s", reason);
}

/*
 * Joins the ranks of this process; *out is NULL where it is alone.
 *
 *   config   in    NULL if it is wrong
 *   where    out   what csp_launch_describe says
 */
static csp_status join(const csp_config *config, char *where, size_t bytes, csp_comm **out)
{
    const csp_comm_options wait = { .timeout_s = config != NULL ? config->run.rank_timeout_s
                                                                : WRONG_CONFIG_S,
                                    .grace_s = GRACE_S };
    csp_launch launch;
    csp_status status;
    char *path;

    *out = NULL;
    CSP_TRY(csp_launch_find(&launch));
    if (launch.kind != CSP_LAUNCH_ALONE) {
        /* Sums inside NVLink's switches are not the same on every run (docs/method.md 14). */
        (void)setenv("NCCL_NVLS_ENABLE", "0", 0);
    }
    csp_launch_describe(where, bytes); /* MPI adds variables of its own when it starts */
    if (launch.kind == CSP_LAUNCH_ALONE) {
        return CSP_OK;
    }
    meeting = 1;
    status = csp_comm_create(&launch, &wait, out);
    meeting = 0;
    CSP_TRY(status);
    csp_log_set_rank(csp_comm_rank(*out));
    csp_log(CSP_LOG_INFO, "train", "%d ranks started by %s, %d of them on this machine",
            csp_comm_size(*out), launch.by, csp_comm_local_size(*out));
    /* What an earlier attempt left would look like this one's. */
    path = failure_path(config, csp_comm_rank(*out));
    if (path != NULL) {
        (void)remove(path);
    }
    free(path);
    return CSP_OK;
}

/* A config that is wrong here: the others, which may wait for this rank, are told. */
static csp_status fail_on_config(csp_status status)
{
    csp_comm *comm = NULL;
    char reason[1024], where[2048];

    snprintf(reason, sizeof(reason), "%s", csp_error_text());
    if (join(NULL, where, sizeof(where), &comm) == CSP_OK && comm != NULL) {
        (void)CSP_FAIL(status, "%s", reason);
        status = fail_together(NULL, comm, status);
        csp_comm_destroy(comm);
        return status;
    }
    return CSP_FAIL(status, "%s", reason);
}

static csp_status run(const csp_arguments *args)
{
    csp_train_options o = { .base = csp_args_text(args, "base"),
                            .dry_run = csp_args_flag(args, "dry-run"),
                            .stop = &stop_asked,
                            .save = &save_asked };
    csp_train_result result;
    csp_config *config = NULL;
    char where[2048] = "", collectives[2048];
    csp_status status;

    status = csp_config_from_args(args, 0, stand_for, CSP_COUNT(stand_for), &config);
    if (status != CSP_OK) {
        return fail_on_config(status);
    }
    install_handlers();
    status = join(config, where, sizeof(where), &o.comm);
    csp_launch_collectives(collectives, sizeof(collectives));
    o.collectives = collectives;
    if (status == CSP_OK) {
        csp_log(CSP_LOG_INFO, "train", "csplade %s%s%s", CSPLADE_DESCRIBE,
                where[0] != '\0' ? ", " : "", where);
        status = csp_train(config, &o, &result);
    }
    if (status == CSP_OK && o.comm != NULL) {
        /* Rank 0 may still write when the others are done: nothing is done before it is. */
        status = csp_comm_barrier(o.comm, "the end of the run");
    }
    if (status != CSP_OK && o.comm != NULL) {
        status = fail_together(config, o.comm, status);
    }
    if (status == CSP_OK && result.model[0] != '\0') {
        printf("model %s\n", result.model);
        if (result.best[0] != '\0') {
            printf("best %s %s %.6f\n", result.best, config->run.metric_for_best,
                   result.best_value);
        }
    }
    csp_comm_destroy(o.comm);
    csp_config_free(config);
    return status;
}

const csp_command csp_cmd_train = {
    .name = "train",
    .summary = "run the phases of a config: adapt, contrastive",
    .options = options,
    .option_count = CSP_COUNT(options),
    .positional = "CONFIG [KEY=VALUE...]",
    .details =
        "mpirun -np N csplade train ..., srun --mpi=pmix csplade train ..., or torchrun's "
        "variables "
        "start N\nranks, which share out each step and give what one would; rank 0 writes.\n\n"
        "csplade train configs/demo.yaml run.output_dir=runs/a contrastive.lambda_d=1e-3\n\n"
        "The same command again goes on from the newest checkpoint, to the same bits as a run that "
        "was\nnever stopped (same machine type and number of threads).\n\n"
        "signals: SIGTERM, SIGUSR2, SIGINT  checkpoint after this step and exit with 75; a second\n"
        "                                   SIGINT ends at once\n"
        "         SIGUSR1                   checkpoint after this step and go on",
    .run = run,
};
