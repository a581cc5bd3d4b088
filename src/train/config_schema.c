/* The keys of a config.
 *
 * To add a key: a field in tr_config (of a model's size: in tr_sizes), a row here. Parsing, defaults, limits, help, YAML and JSON
 * follow. A key whose default depends on others has fallback NULL, `automatic` in words, and a line
 * in tr_config_resolve.
 */
#include "train/config_schema.h"

#include <math.h>
#include <string.h>

#include "data/objective.h"

#define X(name) {#name, TR_FAMILY_##name},
static const tr_choice families[] = {TR_FAMILIES(X){"custom", TR_FAMILY_CUSTOM}, {0}};
#undef X
#define X(name) {#name, TR_OBJECTIVE_##name},
static const tr_choice objectives[] = {TR_OBJECTIVES(X){0}};
#undef X
static const tr_choice rope_kinds[] = {{"none", TR_ROPE_PLAIN},     {"linear", TR_ROPE_LINEAR}, {"dynamic", TR_ROPE_DYNAMIC},
                                       {"llama3", TR_ROPE_LLAMA3}, {"yarn", TR_ROPE_YARN},     {0}};
static const tr_choice precisions[] = {{"fp32", TR_F32}, {"bf16", TR_BF16}, {"fp16", TR_F16}, {0}};
static const tr_choice wires[] = {{"fp32", TR_F32}, {"bf16", TR_BF16}, {0}};
static const tr_choice sequence_kinds[] = {{"none", TR_SEQUENCE_NONE},
                                           {"megatron", TR_SEQUENCE_MEGATRON},
                                           {"ulysses", TR_SEQUENCE_ULYSSES},
                                           {"ring", TR_SEQUENCE_RING},
                                           {0}};
static const tr_choice tensor_kinds[] = {
    {"1d", TR_TENSOR_1D}, {"2d", TR_TENSOR_2D}, {"2.5d", TR_TENSOR_2_5D}, {"3d", TR_TENSOR_3D}, {0}};
static const tr_choice recomputes[] = {
    {"none", TR_RECOMPUTE_NONE}, {"cheap", TR_RECOMPUTE_CHEAP}, {"full", TR_RECOMPUTE_FULL}, {0}};
static const tr_choice optimizers[] = {{"adamw", TR_ADAMW}, {"sgd", TR_SGD},   {"lion", TR_LION},
                                       {"lars", TR_LARS},   {"lamb", TR_LAMB}, {"adafactor", TR_ADAFACTOR}, {0}};
static const tr_choice schedules[] = {{"constant", TR_SCHEDULE_CONSTANT},
                                      {"linear", TR_SCHEDULE_LINEAR},
                                      {"cosine", TR_SCHEDULE_COSINE},
                                      {"wsd", TR_SCHEDULE_WSD},
                                      {"cosine_restarts", TR_SCHEDULE_RESTARTS},
                                      {"polynomial", TR_SCHEDULE_POLYNOMIAL},
                                      {"inverse_sqrt", TR_SCHEDULE_INVERSE_SQRT},
                                      {"one_cycle", TR_SCHEDULE_ONE_CYCLE},
                                      {"multi_step", TR_SCHEDULE_MULTI_STEP},
                                      {0}};

/* Limits that only keep arithmetic on sizes inside of 64 bits; a machine's limits are checked by
 * the plan. */
#define MOST_SIZE 0x1p24
#define MOST_STEPS 1e12

#define AT(field) offsetof(tr_config, field)
#define INTEGER(key, from, to, ...)                                                      \
    {                                                                                    \
        .name = #key, .type = KEY_INTEGER, .offset = AT(key), .least = from, .most = to, \
        __VA_ARGS__                                                                      \
    }
#define REAL(key, from, to, ...)                                                                  \
    {                                                                                             \
        .name = #key, .type = KEY_REAL, .offset = AT(key), .least = from, .most = to, __VA_ARGS__ \
    }
#define BOOL(key, ...)                                                 \
    {                                                                  \
        .name = #key, .type = KEY_BOOL, .offset = AT(key), __VA_ARGS__ \
    }
#define TEXT(key, ...)                                                 \
    {                                                                  \
        .name = #key, .type = KEY_TEXT, .offset = AT(key), __VA_ARGS__ \
    }
#define CHOICE(key, list, ...)                                                            \
    {                                                                                     \
        .name = #key, .type = KEY_CHOICE, .offset = AT(key), .choices = list, __VA_ARGS__ \
    }
#define SOURCES(key, ...)                                                 \
    {                                                                     \
        .name = #key, .type = KEY_SOURCES, .offset = AT(key), __VA_ARGS__ \
    }

/* Keys of the model's sizes. */
#define SIZE(key, from, to, ...)                                                                                      \
    {                                                                                                                 \
        .name = "model." #key, .type = KEY_INTEGER, .offset = AT(model.sizes.key), .least = from, .most = to, __VA_ARGS__ \
    }
#define SIZE_REAL(key, from, to, ...)                                                                              \
    {                                                                                                              \
        .name = "model." #key, .type = KEY_REAL, .offset = AT(model.sizes.key), .least = from, .most = to, __VA_ARGS__ \
    }
#define SIZE_BOOL(key, ...)                                                                       \
    {                                                                                             \
        .name = "model." #key, .type = KEY_BOOL, .offset = AT(model.sizes.key), __VA_ARGS__ \
    }
#define SIZE_CHOICE(key, list, ...)                                                                                \
    {                                                                                                              \
        .name = "model." #key, .type = KEY_CHOICE, .offset = AT(model.sizes.key), .choices = list, __VA_ARGS__ \
    }

const tr_config_key tr_config_keys[] = {
    CHOICE(model.family, families, .automatic = "that of model.preset or model.from, or gpt2", .fixed = true,
           .help = "kind of model; custom: given by a program that calls tr_train"),
    TEXT(model.preset, .fixed = true, .also = " size ",
         .help = "sizes of a published model, of any family: gpt2, gpt3-175b ... (a wrong name lists them all)"),
    TEXT(model.from, .fixed = true, .also = " init_from checkpoint pretrained model_name_or_path ",
         .help = "start from this Hugging Face checkpoint directory"),
    SIZE(layers, 1, 1e5, .fallback = "6", .fixed = true,
            .also = " n_layer n_layers num_layers num_hidden_layers depth ",
            .help = "Transformer blocks"),
    SIZE(embed, 1, MOST_SIZE, .fallback = "384", .fixed = true,
            .also = " n_embd d_model hidden_size dim width ",
            .help = "width of the residual stream; a multiple of model.heads"),
    SIZE(heads, 1, MOST_SIZE, .fallback = "6", .fixed = true,
            .also = " n_head n_heads num_heads num_attention_heads ", .help = "attention heads"),
    SIZE(mlp, 1, 4 * MOST_SIZE, .automatic = "as the family has it, or 4 x model.embed", .fixed = true,
            .also = " n_inner d_ff intermediate_size ", .help = "width inside of the MLP"),
    SIZE(context, 1, MOST_SIZE, .automatic = "train.seq, or 256", .fixed = true,
            .also = " block_size n_positions max_position_embeddings n_ctx ",
            .help = "longest sequence the model can see"),
    SIZE(vocab, 0, MOST_SIZE, .fallback = "0", .fixed = true,
            .also = " vocab_size n_vocab ", .help = "size of the vocabulary; 0: the tokenizer's"),
    SIZE_REAL(dropout, 0, 1, .below = true, .fallback = "0",
         .help = "probability of dropping an activation"),
    SIZE(types, 1, MOST_SIZE, .automatic = "2", .fixed = true, .also = " type_vocab_size ",
         .help = "of segments: first text, second text"),
    SIZE(kv_heads, 1, MOST_SIZE, .automatic = "model.heads", .fixed = true,
         .also = " num_key_value_heads n_kv_heads num_kv_heads ", .help = "heads of keys and values; divides model.heads"),
    SIZE(head_dim, 1, MOST_SIZE, .automatic = "model.embed / model.heads", .fixed = true, .also = " d_head ",
         .help = "width of a head"),
    SIZE_BOOL(untied, .fallback = "false", .fixed = true, .also = " tie_word_embeddings ",
              .help = "the output has a table of its own, not the input's"),
    SIZE_REAL(norm_eps, 0, 1, .above = true, .automatic = "as the family has it", .fixed = true,
              .also = " rms_norm_eps layer_norm_eps layer_norm_epsilon ", .help = "added to the variance in norms"),
    SIZE_REAL(rope_theta, 0, 1e12, .above = true, .automatic = "10000", .fixed = true, .also = " rope_base ",
              .help = "base of the wave lengths of rotary positions"),
    SIZE_CHOICE(rope_kind, rope_kinds, .fallback = "none", .fixed = true, .also = " rope_scaling rope_type ",
                .help = "how rotary positions are stretched beyond the context that a model was trained with"),
    SIZE_REAL(rope_factor, 0, 1e6, .above = true, .automatic = "1", .fixed = true, .help = "by how much"),
    SIZE(rope_context, 1, MOST_SIZE, .automatic = "model.context", .fixed = true,
         .also = " original_max_position_embeddings ", .help = "the context that the model was trained with"),
    SIZE_REAL(rope_low, 0, 1e6, .automatic = "1", .fixed = true, .also = " low_freq_factor beta_slow ",
              .help = "llama3's low_freq_factor, yarn's beta_slow"),
    SIZE_REAL(rope_high, 0, 1e6, .automatic = "4; 32 for yarn", .fixed = true, .also = " high_freq_factor beta_fast ",
              .help = "llama3's high_freq_factor, yarn's beta_fast"),
    SIZE_REAL(rope_attention, 0, 1e6, .automatic = "yarn: 0.1 ln(model.rope_factor) + 1", .fixed = true,
              .also = " attention_factor ", .help = "yarn's factor of the rotated heads"),
    SIZE(experts, 1, 1e6, .automatic = "as the family has it", .fixed = true,
         .also = " num_experts num_local_experts n_experts ", .help = "experts of a layer; mesh.expert ranks share them"),
    SIZE(expert_choices, 1, 16, .automatic = "as the family has it", .fixed = true,
         .also = " num_experts_per_tok top_k ", .help = "experts of a token"),
    SIZE(expert_every, 1, 1e5, .automatic = "as the family has it", .fixed = true, .help = "every so many layers have experts"),
    SIZE_REAL(expert_capacity, 0, 1e6, .fallback = "0", .also = " capacity_factor ",
              .help = "room of an expert: this x expert_choices x tokens of a sequence / experts; 0: no token is left out"),
    SIZE(expert_room, 0, MOST_SIZE, .fallback = "0", .also = " expert_capacity ",
         .help = "room of an expert for so many tokens of a sequence; 0: by model.expert_capacity"),
    SIZE_BOOL(expert_random, .fallback = "false",
              .help = "choices after the first take part with probability 2 x weight (GShard)"),
    SIZE_REAL(expert_dropout, 0, 1, .below = true, .fallback = "0", .help = "dropout inside of an expert"),
    SIZE_REAL(balance_loss, 0, 1e3, .fallback = "0", .also = " router_aux_loss_coef aux_loss_coef ",
              .help = "weight of the loss that balances the experts, summed over layers"),
    SIZE_REAL(router_z_loss, 0, 1e3, .fallback = "0", .also = " router_z_loss_coef ",
              .help = "weight of the router's z loss, summed over layers"),
    SIZE_REAL(z_loss, 0, 1, .automatic = "as the family has it", .help = "this times log(Z)^2 is added to the loss of a token"),
    SIZE(decoder_layers, 1, 1e5, .automatic = "model.layers", .fixed = true, .also = " num_decoder_layers ",
         .help = "blocks of the second tower, in models that have two"),
    SIZE(buckets, 2, 1e6, .automatic = "32", .fixed = true, .also = " relative_attention_num_buckets ",
         .help = "of relative positions"),
    SIZE(bucket_distance, 2, MOST_SIZE, .automatic = "128", .fixed = true, .also = " relative_attention_max_distance ",
         .help = "distance from which on all share the last bucket"),
    SIZE_BOOL(gated, .fallback = "false", .fixed = true, .also = " is_gated_act ",
              .help = "the MLP's activation is gated (T5 v1.1)"),
    SIZE_BOOL(unscaled, .fallback = "false", .fixed = true, .also = " scale_decoder_outputs ",
              .help = "hidden states go to a tied output as they are, not divided by the root of model.embed as in T5"),
    SIZE_REAL(smoothing, 0, 1, .below = true, .automatic = "as the family has it", .also = " label_smoothing ",
              .help = "share of a label's probability that is spread over all choices"),
    SIZE(image, 1, 1e5, .automatic = "224", .fixed = true, .also = " image_size ", .help = "side of an image in pixels"),
    SIZE(patch, 1, 1e5, .automatic = "16", .fixed = true, .also = " patch_size ", .help = "side of a patch, which is one token"),
    SIZE(channels, 1, 1e5, .automatic = "3", .fixed = true, .also = " num_channels ", .help = "numbers a pixel"),
    SIZE(labels, 1, MOST_SIZE, .automatic = "2 of images; none of texts", .fixed = true, .also = " num_labels num_classes ",
         .help = "classes; with them BERT learns the class of a text"),
    SIZE(window, 1, 1e5, .automatic = "7", .fixed = true, .also = " window_size ", .help = "side of a window in tokens (Swin)"),
    SIZE(depth1, 1, 1e5, .automatic = "2", .fixed = true, .also = " depths ", .help = "layers of the first stage (Swin)"),
    SIZE(depth2, 0, 1e5, .automatic = "2", .fixed = true, .help = "of the second, 0: there is none"),
    SIZE(depth3, 0, 1e5, .automatic = "6", .fixed = true, .help = "of the third"),
    SIZE(depth4, 0, 1e5, .automatic = "2", .fixed = true, .help = "of the fourth"),
    SIZE_REAL(drop_path, 0, 1, .below = true, .fallback = "0", .also = " drop_path_rate stochastic_depth ",
              .help = "probability that a sample leaves out a branch, in the last layer; it rises from 0"),
    BOOL(model.banded, .fallback = "false", .fixed = true,
         .help = "every second layer's attention is local, as in GPT-3"),
    SIZE(band, 1, MOST_SIZE, .fallback = "256", .fixed = true,
            .only_if = "model.banded=true", .help = "tokens that local attention sees"),

    SOURCES(data.train, .also = " dataset train_data ",
            .help = "text to train on: a file, directory, JSONL or token shards, or a list of "
                    "them; an item may be {path: P, weight: W}"),
    SOURCES(data.val, .also = " val_data validation ",
            .help = "text to validate on, like data.train"),
    TEXT(data.tokenizer, .automatic = "model.from's, or bytes", .fixed = true,
         .help = "a tokenizer's directory or file, or bytes, or chars"),
    REAL(data.val_split, 0, 0.5, .automatic = "0.01, or 0 with data.val",
         .help = "share of data.train that is held out to validate on"),
    CHOICE(data.objective, objectives, .automatic = "the family's", .fixed = true, .help = "what is learnt from the data"),
    INTEGER(data.crop, 0, 1e4, .fallback = "0", .only_if = "data.objective=images",
            .help = "images are moved by up to so many pixels while training"),
    BOOL(data.flip, .fallback = "false", .only_if = "data.objective=images",
         .help = "every second image is mirrored while training"),
    REAL(data.erase, 0, 1, .fallback = "0", .only_if = "data.objective=images", .also = " random_erasing ",
         .help = "share of images of which a rectangle is erased while training"),
    REAL(data.mixup, 0, 1, .fallback = "0", .fixed = true, .only_if = "data.objective=images", .also = " mixup_alpha ",
         .help = "images and their labels are mixed in pairs while training, by shares from Beta(mixup, mixup); 0: they are not"),
    TEXT(data.cache, .automatic = "in the run's directory", .help = "directory for tokenized data"),

    INTEGER(train.steps, 1, MOST_STEPS, .fallback = "1000",
            .also = " max_steps max_iters num_steps iterations epochs ", .help = "optimizer steps"),
    INTEGER(train.batch, 1, MOST_SIZE, .fallback = "8",
            .also = " batch_size global_batch_size train_batch_size ",
            .help = "sequences a step, over all ranks"),
    INTEGER(train.micro_batch, 1, MOST_SIZE, .automatic = "train.batch",
            .also = " per_device_train_batch_size micro_batch_size gradient_accumulation_steps ",
            .help = "sequences at a time; divides train.batch"),
    INTEGER(train.seq, 1, MOST_SIZE, .automatic = "model.context",
            .also = " seq_len seq_length sequence_length max_seq_len ",
            .help = "tokens in a sequence"),
    INTEGER(train.decoder_seq, 1, MOST_SIZE, .automatic = "train.seq",
            .help = "tokens of the second tower, in models that have two"),
    CHOICE(train.precision, precisions, .fallback = "fp32", .also = " dtype amp fp16 ",
           .help = "of activations and products; sums and weights are fp32 in each; fp16 scales the loss"),
    REAL(train.loss_scale, 0, 1e30, .above = true, .fallback = "65536", .only_if = "train.precision=fp16",
         .also = " init_scale initial_scale_power ", .help = "fp16: the mean loss is times this at first; halved when a gradient overflows"),
    INTEGER(train.loss_scale_every, 0, MOST_STEPS, .fallback = "2000", .only_if = "train.precision=fp16",
            .also = " growth_interval loss_scale_window ", .help = "steps without an overflow after which the scale doubles; 0: never"),
    INTEGER(train.eval_every, 0, MOST_STEPS, .fallback = "100",
            .also = " eval_interval eval_steps ", .help = "steps between validations; 0: never"),
    INTEGER(train.eval_batches, 1, MOST_STEPS, .fallback = "20", .help = "batches in a validation"),
    INTEGER(train.save_every, 0, MOST_STEPS, .fallback = "500",
            .also = " save_steps checkpoint_every ",
            .help = "steps between checkpoints; 0: at the end only"),
    INTEGER(train.keep, 1, 1e6, .fallback = "2",
            .help = "newest checkpoints that are kept, beside the best"),
    REAL(train.clip, 0, 1e30, .fallback = "1",
         .also = " grad_clip max_grad_norm gradient_clipping ",
         .help = "largest global norm of the gradient; 0: no limit"),
    INTEGER(train.log_every, 1, MOST_STEPS, .fallback = "10",
            .also = " log_interval logging_steps ", .help = "steps between printed lines"),
    INTEGER(train.sample_every, 0, MOST_STEPS, .fallback = "0",
            .help = "steps between samples; 0: never"),
    TEXT(train.sample_prompt, .automatic = "the tokenizer's end-of-text token",
         .help = "what samples begin with"),
    CHOICE(train.recompute, recomputes, .fallback = "cheap",
           .also = " activation_checkpointing gradient_checkpointing ",
           .help = "activations that are made again in the backward pass instead of kept"),

    CHOICE(optimizer.name, optimizers, .fallback = "adamw", .fixed = true, .help = "optimizer"),
    REAL(optimizer.lr, 0, 1e6, .above = true, .fallback = "3e-4", .also = " learning_rate ",
         .help = "highest learning rate"),
    REAL(optimizer.beta1, 0, 1, .below = true, .automatic = "0.9; 0 (and no memory) for adafactor",
         .only_if = "optimizer.name=adamw|lion|lamb|adafactor", .help = "decay of the mean of the gradient"),
    REAL(optimizer.beta2, 0, 1, .below = true, .automatic = "0.95; 0.99 for lion, 0.999 for lamb",
         .only_if = "optimizer.name=adamw|lion|lamb", .help = "decay of the mean of its square; of the mean for lion"),
    REAL(optimizer.eps, 0, 1, .above = true, .automatic = "1e-8; 1e-6 for lamb, 1e-30 for adafactor",
         .only_if = "optimizer.name=adamw|lamb|adafactor", .also = " epsilon adam_epsilon ",
         .help = "added to the root of that mean; to the square for adafactor"),
    REAL(optimizer.weight_decay, 0, 1e6, .fallback = "0.1",
         .help = "of parameters with two dims or more"),
    REAL(optimizer.momentum, 0, 1, .below = true, .fallback = "0.9",
         .only_if = "optimizer.name=sgd|lars", .help = "decay of the sum of gradients"),
    REAL(optimizer.trust, 0, 1e6, .above = true, .fallback = "0.001", .only_if = "optimizer.name=lars",
         .also = " trust_coefficient eta ", .help = "a step's norm over the weight's, at a learning rate of 1"),
    BOOL(optimizer.factored, .fallback = "true", .fixed = true, .only_if = "optimizer.name=adafactor",
         .help = "mean squares of a matrix by its rows and columns; false: of each element, as PaLM has it"),
    BOOL(optimizer.relative, .fallback = "true", .only_if = "optimizer.name=adafactor",
         .also = " scale_parameter multiply_by_parameter_scale ",
         .help = "the learning rate is times the root mean square of the parameter"),
    REAL(optimizer.least_scale, 0, 1e6, .fallback = "1e-3", .only_if = "optimizer.name=adafactor",
         .help = "the least that optimizer.relative multiplies by"),
    REAL(optimizer.update_limit, 0, 1e30, .fallback = "1", .only_if = "optimizer.name=adafactor",
         .also = " clip_threshold ", .help = "largest root mean square of a parameter's update; 0: no limit"),
    REAL(optimizer.decay_power, 0, 1, .above = true, .fallback = "0.8", .only_if = "optimizer.name=adafactor",
         .also = " decay_rate ", .help = "the mean of squares decays by 1 - step^-power"),

    CHOICE(schedule.name, schedules, .fallback = "cosine",
           .also = " lr_scheduler lr_decay scheduler ",
           .help = "how the learning rate goes on from its highest; wsd: stays, then falls"),
    INTEGER(schedule.warmup, 0, MOST_STEPS, .automatic = "a tenth of train.steps, at most 100; 3 tenths for one_cycle",
            .also = " warmup_steps warmup_iters ",
            .help = "steps in which the learning rate rises"),
    REAL(schedule.final_lr, 0, 1e6, .automatic = "optimizer.lr / 10; 0 for wsd and inverse_sqrt, start_lr / 1e4 for one_cycle",
         .also = " min_lr ", .help = "learning rate at the end, or the least; constant and multi_step ignore it"),
    INTEGER(schedule.decay, 0, MOST_STEPS, .automatic = "a fifth of train.steps",
            .only_if = "schedule.name=wsd",
            .help = "steps at the end of wsd in which the learning rate falls"),
    INTEGER(schedule.cycle, 1, MOST_STEPS, .automatic = "a quarter of the steps after the warmup",
            .only_if = "schedule.name=cosine_restarts", .also = " t_0 ", .help = "steps in the first cycle"),
    REAL(schedule.cycle_growth, 1, 1e6, .fallback = "1", .only_if = "schedule.name=cosine_restarts", .also = " t_mult ",
         .help = "how many times as long as the one before each cycle is"),
    REAL(schedule.power, 0, 1e3, .above = true, .fallback = "1", .only_if = "schedule.name=polynomial",
         .help = "exponent of the share of steps that are left"),
    INTEGER(schedule.hold, 0, MOST_STEPS, .fallback = "0", .only_if = "schedule.name=inverse_sqrt",
            .help = "steps at the highest learning rate before it falls"),
    REAL(schedule.start_lr, 0, 1e6, .automatic = "optimizer.lr / 25", .only_if = "schedule.name=one_cycle",
         .also = " initial_lr ", .help = "learning rate of the first step"),
    TEXT(schedule.milestones, .automatic = "a half and three quarters of train.steps", .only_if = "schedule.name=multi_step",
         .help = "steps after which the learning rate is times schedule.factor: \"600, 800\""),
    REAL(schedule.factor, 0, 1, .fallback = "0.1", .only_if = "schedule.name=multi_step", .also = " gamma ",
         .help = "what a milestone multiplies the learning rate by"),

    INTEGER(mesh.data, 1, 1e6, .fallback = "1", .also = " data_parallel_size dp ",
            .help = "ranks that share each batch"),
    INTEGER(mesh.tensor, 1, 1e6, .fallback = "1", .also = " tensor_parallel_size tensor_model_parallel_size tp ",
            .help = "ranks that share heads, MLPs and the vocabulary (Megatron)"),
    CHOICE(mesh.tensor_kind, tensor_kinds, .fallback = "1d",
           .help = "how the tensor ranks share a product: 1d (Megatron); 2d: a square of ranks; 2.5d: a square times a "
                   "depth, 8 = 2 x 2 x 2; 3d: a cube"),
    INTEGER(mesh.pipeline, 1, 62, .fallback = "1", .also = " pipeline_parallel_size pipeline_model_parallel_size pp ",
            .help = "ranks that share the layers, each a stage or pipeline.chunks of them"),
    INTEGER(mesh.sequence, 1, 1e6, .fallback = "1", .also = " context_parallel_size sequence_parallel_size cp ",
            .help = "ranks that share each sequence (with mesh.sequence_kind ulysses or ring)"),
    INTEGER(mesh.expert, 1, 1e6, .fallback = "1", .also = " expert_parallel_size ep ",
            .help = "ranks that share the experts; of all else they are data ranks"),
    CHOICE(mesh.sequence_kind, sequence_kinds, .automatic = "ulysses when mesh.sequence > 1, else none",
           .help = "megatron: sequences are cut over the tensor axis between attention and MLP; ulysses: over "
                   "the sequence axis, heads inside of attention; ring: over the sequence axis, also inside of attention, "
                   "where keys and values go from rank to rank"),
    BOOL(mesh.overlap, .fallback = "true", .also = " overlap_comm overlap_grad_reduce overlap_param_gather ",
         .help = "start collectives as soon as they can be and wait for them as late as they may"),
    REAL(mesh.bucket_mb, 0, 1e6, .fallback = "4", .also = " bucket_size bucket_cap_mb reduce_bucket_size ",
         .help = "MB of small gradients that are reduced together, and an eighth of what may be gathered ahead; 0: each by itself"),
    CHOICE(mesh.wire, wires, .fallback = "fp32", .also = " grad_reduce_in_bf16 communication_data_type ",
           .help = "what sums of fp32 travel as; bf16: half the bytes, and still summed in fp32"),
    TEXT(pipeline.schedule, .automatic = "1f1b; interleaved with pipeline.chunks > 1", .also = " pipeline_schedule ",
         .help = "gpipe, 1f1b, interleaved, zero_bubble, or a CSV file as `inspect --schedule` prints it"),
    INTEGER(pipeline.chunks, 1, 1024, .automatic = "1; 2 when interleaved", .also = " virtual_pipeline_model_parallel_size ",
            .help = "stages a rank, for interleaved"),
    INTEGER(zero, 0, 3, .fallback = "0", .also = " zero_stage zero_optimization ",
            .help = "cut over the data axis: 1 the optimizer's state, 2 gradients too, 3 parameters too"),

    INTEGER(seed, 0, 0x1p53, .fallback = "1",
            .help = "of initialisation, dropout and the order of the data"),
    INTEGER(threads, 0, 4096, .fallback = "0", .also = " num_threads n_threads ",
            .help = "threads a rank; 0: the cores shared out among the ranks of this machine"),
    TEXT(isa, .fallback = "auto",
         .help = "instruction set: auto, portable, avx2, avx512, avx512_bf16, amx"),
    TEXT(out, .automatic = "runs/ and the name of the config file", .also = " out_dir output_dir ",
         .help = "the run's directory"),
};
const int64_t tr_config_key_count = TR_COUNT(tr_config_keys);

int64_t tr_config_key_find(const char *name)
{
    for (int64_t i = 0; i < tr_config_key_count; i++)
        if (strcmp(tr_config_keys[i].name, name) == 0)
            return i;
    return -1;
}

void *tr_config_field(const tr_config *config, const tr_config_key *key)
{
    return (char *)config + key->offset;
}

const char *tr_config_key_size(const tr_config_key *key)
{
    static const char prefix[] = "model.";
    size_t n = strlen(prefix);
    bool size = key->type != KEY_TEXT && strncmp(key->name, prefix, n) == 0 && strcmp(key->name + n, "family") != 0;
    return size ? key->name + n : NULL;
}
