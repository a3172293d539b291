/* cmd_train.c - csplade train: runs the phases that a config names, or goes on with them. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/config_args.h"
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

static volatile sig_atomic_t stop_asked, save_asked;

/* SIGTERM, SIGINT, SIGUSR2: a checkpoint at the next step, then the end; SIGINT again: at once. */
static void on_stop(int number)
{
    static const char text[] =
        "\ncsplade: stopping after this step with a checkpoint; Ctrl-C again "
        "stops at once\n";

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

static csp_status run(const csp_arguments *args)
{
    csp_train_options o = { .base = csp_args_text(args, "base"),
                            .dry_run = csp_args_flag(args, "dry-run"),
                            .stop = &stop_asked,
                            .save = &save_asked };
    csp_train_result result;
    csp_config *config = NULL;
    csp_status status;

    CSP_TRY(csp_config_from_args(args, 0, stand_for, CSP_COUNT(stand_for), &config));
    install_handlers();
    status = csp_train(config, &o, &result);
    if (status == CSP_OK && !o.dry_run) {
        printf("model %s\n", result.model);
        if (result.best[0] != '\0') {
            printf("best %s %s %.6f\n", result.best, config->run.metric_for_best,
                   result.best_value);
        }
    }
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
        "csplade train configs/demo.yaml run.output_dir=runs/a contrastive.lambda_d=1e-3\n\n"
        "The same command again goes on from the newest checkpoint, to the same bits as a run that "
        "was\nnever stopped (same machine type and number of threads).\n\n"
        "signals: SIGTERM, SIGUSR2, SIGINT  checkpoint after this step and exit with 75; a second\n"
        "                                   SIGINT ends at once\n"
        "         SIGUSR1                   checkpoint after this step and go on",
    .run = run,
};
