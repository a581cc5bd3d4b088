/* The pipeline's schedule, printed; see inspect_schedule.c. */
#pragma once
#include "exec/program.h"
#include "train/config.h"

/* `program` is the plan of rank 0. */
tr_error *cli_inspect_schedule(const tr_config *config, const tr_program *program);
