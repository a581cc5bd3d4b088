/* The list of ops and their calling convention.
 *
 * This header is what the graph, the passes and the kernels share: which ops there are, what their
 * inputs and outputs mean, and where each attribute stands. The facts of an op (shape rule, gradient,
 * sharding rule, cost) are in its family's file under src/ops; its kernels are under src/kernels.
 *
 * Notation: `*` any number of leading dims, `+` any number of trailing dims, `?` may be absent.
 * Activations are f32 or bf16 and share one dtype per node unless said otherwise; statistics, losses,
 * and gradients of 1-D parameters are f32. "acc?" is always the last input: when present, output 0 is
 * acc + result, written in acc's own buffer (flag TR_OP_ACCUMULATES).
 *
 *  op                   inputs -> outputs                                       attributes
 *  add                  a[*,+], b[+] -> c[*,+]          b is repeated over a's leading dims
 *  mul                  a[*,+], b[+] -> c[*,+]          as add
 *  scale                a[+] -> c[+]                                            factor
 *  cast                 a[+] -> c[+]                                            dtype
 *  activate             x[+] -> y[+]                                            fn
 *  activate_grad        dy[+], x[+] -> dx[+]                                    fn
 *  gated                a[+], b[+] -> c[+]              fn(a) b                     fn
 *  gated_grad           dy[+], a[+], b[+] -> da[+], db[+]                       fn
 *  dropout              x[+] -> y[+]       kept elements are divided by 1-p     p, stream, dims
 *                       dims > 0: what has the same first dims is kept or dropped together
 *  fill                 -> c[1] f32                                             value
 *  clear                a[+] -> a'[+]      zeros, in a's buffer
 *  sum_leading          x[*,+], acc?[+] -> y[+] f32                             kept (dims)
 *  expand               x[+], like[*,+] -> y[*,+]   repeated, in like's dtype; like is not read
 *  reshape              x -> y             a view, no kernel           (the shape is in the value)
 *  linear               x[*,k], w[k,+], bias?[+] -> y[*,+]                      transposed, fn
 *                       transposed: w[+,k]; bias f32; fn is applied to the sum
 *  linear_dx            dy[*,+], w[k,+], acc?[*,k] -> dx[*,k]                   transposed
 *  linear_dw            x[*,k], dy[*,+], acc?[k,+] -> dw[k,+]                   transposed, dtype, split
 *                       dtype of dw: f32, or bf16 when x is bf16; split: dims of x that are contracted
 *  layer_norm           x[*,d], w[d], b[d] -> y[*,d], mean[*], rstd[*]          eps
 *  add_layer_norm       x[*,d], r[*,d], w, b -> s = x + r, y[*,d], mean, rstd   eps
 *  layer_norm_grad      dy, x[*,d], w[d], mean[*], rstd[*], acc?[*,d] -> dx[*,d], dw[d], db[d]
 *  rms_norm             x[*,d], w[d] -> y[*,d], rstd[*]                         eps
 *  add_rms_norm         x[*,d], r[*,d], w[d] -> s = x + r, y[*,d], rstd[*]      eps
 *  rms_norm_grad        dy, x[*,d], w[d], rstd[*], acc?[*,d] -> dx[*,d], dw[d]
 *  rope_rates           -> rates[dims/2] f32     dims, base, scaling, factor, original, low, high
 *                       base^(-2i / dims), scaled for contexts longer than `original` (tr_rope_scaling)
 *  rope                 x[b,t,h,e], positions[b,t] i32, rates[r] f32 -> y[b,t,h,e]    interleaved, inverse, factor
 *                       pairs (x_i, x_i+r), interleaved (x_2i, x_2i+1), are turned by position x rate_i, back when
 *                       inverse, and multiplied by factor; elements from 2 r on are as they were
 *  sinusoids            positions[*] i32 -> y[*,d]                 dims: sines and cosines in turn
 *  buckets              -> ids[2 most + 1] i32    T5's bucket of each distance, from -most on    buckets, most, both
 *  embedding            table[v,d], ids[*] i32 -> y[*,d]
 *  embedding_grad       ids[*] i32, dy[*,d], acc?[v,d] -> dtable[v,d] f32       rows (v)
 *  permute              x -> y             dim d of y is dim (order >> 4 d) & 15 of x      order
 *  slice                x[+] -> y[+]       first .. first + count of dim                   dim, first, count
 *  roll                 x[+] -> y[+]       y[(i + shift) mod n] = x[i] along dim           dim, shift
 *  pad                  x[+] -> y[+]       x at first.. of dim, zeros around it            dim, first, size
 *  concat               a[+], b[+].. -> c[+]    2 to 8 of them, one behind the other       dim
 *  repeat               x -> y             `count` times, as a new dim at `dim`            dim, count
 *  sum_dim              x -> y             over dim, which goes; in x's dtype              dim
 *  window_regions       -> ids[n n, w w] i32    side, window (w), shift                    n = side / w
 *                       of each token of each window of a grid that was rolled back by shift: from 1 on, equal where
 *                       tokens were neighbours before (Liu et al. 2021, the mask of shifted windows)
 *  attention            q[b,t,h,e], k[b,s,g,e], v[b,s,g,e], relative?[n,h], qseg?[m,t] i32, kseg?[m,s] i32
 *                       -> o[b,t,h,e], lse[b,h,t] f32
 *                       causal, window, scale, p, stream, row
 *                       packed: q is [b,t,3,h,e] (query, key, value), k and v are absent.
 *                       h is a multiple of g. causal: query i sees keys j <= i + s - t; window w > 0:
 *                       and only j > i + s - t - w. p: dropout of the probabilities.
 *                       relative: the score of (i, j) is scale q_i k_j + relative[d + n / 2, h], with the distance
 *                       d = P(i + s - t) - P(j) cut to -n/2 .. n/2 (n odd). P(i) = i, or, in a window of rows of
 *                       `row` tokens, i / row * (2 row - 1) + i % row, so that d tells both distances.
 *                       Row b % m of qseg and kseg: a key with segment 0 is padding, never seen; with qseg,
 *                       query i sees key j only where qseg[i] = kseg[j].
 *  attention_grad       do, o, lse, q, k?, v?, relative?, qseg?, kseg? -> dq, (dk, dv,) (drelative f32)
 *                       packed: d of q only in the place of three                    as attention
 *  attention_cached     q, k?, v?, kcache[b,g,c,e], vcache[b,g,c,e], start[1] i32, relative?[n,h]
 *                       -> o[b,t,h,e], kcache', vcache'          window, scale, row
 *                       t new tokens at positions start.. are put in the cache (in place), then
 *                       query i sees keys 0 .. start + i (causal).
 *
 * The same with the sequence cut over ranks, made by the sharding pass: queries and keys are parts of sequences, dealt
 * as in ir/part.h. Query x is at first + x in the whole, and jump further from x = turn on; keys likewise; all_keys is
 * how many keys there are in the whole.
 *  attention_part       q[b,t,h,e], k[b,s,g,e], v[b,s,g,e], o?[b,t,h,e] f32, lse?[b,h,t] f32 -> o', lse'
 *                       attention's, first, turn, jump, key_first, key_turn, key_jump, all_keys
 *                       o and lse are of keys that came before; what is written, over them, is of all keys so far.
 *                       q may be packed, [b,t,3,h,e], of which only the query is read.
 *  attention_part_grad  do, o, lse, q, k, v, acc?[b,t,h,e] f32 -> dq[b,t,h,e] f32, dk f32, dv f32
 *                       attention_part's; what these keys contribute; o and lse are of all keys
 *
 *  route                logits[b,t,e] f32 -> weights[b,t,k] f32, choices[b,t,k] i32, slots[b,t,k] i32, filled[b,e] i32
 *                       k, capacity, normalised, random, stream, joined, together
 *                       kernels/reference/moe.c has the definitions
 *                       a slot is expert x capacity + place, or -1: there was no place. Places 0 .. filled - 1 are taken.
 *                       joined: the experts' places of a sequence follow each other in one room, without gaps
 *                       together: those of all sequences do, by expert first, then by sequence
 *  route_grad           dweights, logits, choices -> dlogits f32
 *  route_loss           logits, choices -> balance[1], z[1]       sums over sequences                  all
 *  route_loss_grad      logits, choices, dbalance[1], dz[1] -> dlogits f32                             all
 *  dispatch             x[b,t,d], slots[b,t,k], weights?[b,t,k] f32 -> y[e,b,c,d]        experts, capacity, together
 *                       a token, times its weight, in each of its slots; the rest is zeros
 *                       together, here and below: y[1,1,c,d] with the places of all sequences
 *  collect              y[e,b,c,d], slots, weights? -> o[b,t,d]   the sum of a token's slots
 *  collect_grad         do[b,t,d], y[e,b,c,d], slots -> dweights[b,t,k] f32
 *  expert_linear        x[e,b,c,k], w[e,k,n], filled[b,e] i32 -> y[e,b,c,n]              transposed
 *                       joined rooms: x[1,b,c,k] -> y[1,b,c,n]; together: x[1,1,c,k] -> y[1,1,c,n]
 *                       transposed: w[e,n,k]; places that are not filled become zeros
 *  expert_linear_dw     x[e,b,c,k], dy[e,b,c,n], filled, acc?[e,k,n] -> dw[e,k,n] f32
 *
 *  cross_entropy        x[*,d], w[v,d], targets[*] i32, bias?[v] f32 -> loss[1] f32 (sum), count[1] f32
 *                       smoothing, z_loss, vocab
 *                       logits = x w^T + bias; a target of -1 is not counted. Never all logits at once. A token's loss
 *                       is lse - (1 - smoothing) goal - smoothing mean(logits) + z_loss lse^2. vocab: of the forms
 *                       below, and 0 here
 *  cross_entropy_grad   x, w, targets, bias?, dloss[1], acc?[v,d] -> dw[v,d] f32, dx[*,d], (dbias[v] f32)
 *  cross_entropy_train  x, w, targets, bias?, dloss?[1], acc?[v,d] -> dw[v,d] f32, dx[*,d], loss[1], count[1], (dbias[v] f32)
 *                       forward and gradient in one, for dloss = 1
 *
 * The same with the vocabulary cut over ranks, made by the sharding pass: w has some of the words, and targets count
 * from the first of them (-1: another rank's, or not counted).
 *  cross_entropy_part   x[*,d], w[v,d], targets[*] i32, bias?[v] -> lse[*] f32, goal[*] f32, (total[*] f32)
 *                       log sum exp of these words' logits; the target's logit, 0 where it is not here; their sum,
 *                       where smoothing is not 0
 *  cross_entropy_rebase lse[*], goal[*], top[*], total?[*] -> stats[2 or 3,*] f32
 *                       exp(lse - top), goal, total: all may be added up
 *  cross_entropy_join   stats[2 or 3,*], top[*], targets[*] i32 -> loss[1], count[1], lse[*] f32
 *                       from the sums, of all `vocab` words: targets count from 0; lse is infinite where it is not
 *                       counted
 *  cross_entropy_part_grad  x, w, targets, lse[*], bias?[v], dloss[1], acc?[v,d] -> dw[v,d] f32, dx[*,d], (dbias[v])
 *                       dw of these words; dx is a summand. lse is of all `vocab` words
 *
 *  global_norm          g... -> sum[1] f32      sum of squares over all inputs
 *  clip                 sum[1], count[1] -> scale[1], norm[1]                   max_norm
 *                       norm = sqrt(sum) / count; scale = min(1, max_norm / norm) / count; max_norm 0:
 *                       no clipping; scale = -1 when norm is not finite: the step is not applied
 *  adamw                w, g, m, v, scale[1], lr[1], step[1] i32, low? -> w', m', v', low'
 *                       beta1, beta2, eps, decay   all in place; Loshchilov & Hutter 2019:
 *                       g *= scale; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr decay w;
 *                       w -= lr (m / (1-b1^step)) / (sqrt(v / (1-b2^step)) + eps).
 *                       scale < 0: nothing changes. w f32; or w bf16 with low u16: the f32 master is
 *                       split so that it costs 4 bytes in all, see tr_split_f32 in kernels/kernel.h
 *  sgd                  w, g, m, scale[1], lr[1], low? -> w', m', low'          momentum, decay
 *                       g = scale g + decay w; m = momentum m + g; w -= lr m
 *  lion                 w, g, m, scale[1], lr[1], low? -> w', m', low'          beta1, beta2, decay
 *                       Chen et al. 2023: g *= scale; w -= lr (sign(b1 m + (1-b1) g) + decay w); m = b2 m + (1-b2) g
 *
 * Optimizers that look at a whole tensor, in two steps, with sums between them that the sharding pass makes whole:
 *  lars_sums            w, g, scale[1], low? -> sums[2] f32     sums of squares of w and of scale g
 *  lars                 w, g, m, scale[1], lr[1], sums?[2], low? -> w', m', low'    momentum, decay, trust
 *                       You, Gitman & Ginsburg 2017: g *= scale; r = trust |w| / (|g| + decay |w|), 1 without sums or
 *                       where either norm is 0; m = momentum m + lr r (g + decay w); w -= m
 *  lamb_moments         w, g, m, v, scale[1], step[1] i32, low? -> m', v', sums[2]  beta1, beta2, eps, decay
 *                       m and v as adamw; sums of squares of w and of u, u = adamw's step / lr + decay w
 *  lamb                 w, m, v, sums[2], scale[1], lr[1], step[1] i32, low? -> w', low'    as lamb_moments
 *                       You et al. 2020: w -= lr (|w| / |u|) u; the ratio is 1 where either norm is 0
 *  adafactor_rows       g[*,+], r[*], c[+], scale[1] -> rows[*], columns[+]      first, batch, eps
 *                       sums of (scale g)^2 + eps along + and along *; r and c give the shapes. Of the ops with
 *                       first and batch: g and w may be a flat part of the tensor that begins at its element `first`;
 *                       `batch` leading dims of r and c are those of a stack of matrices
 *  adafactor_mean       a[+], sum[+], scale[1], step[1] i32 -> a'[+]            power, count
 *                       b = 1 - step^-power; a = b a + (1-b) sum / count
 *  adafactor_square     v, g, scale[1], step[1] i32 -> v'                       power, eps
 *                       the same without factors: v = b v + (1-b) ((scale g)^2 + eps)
 *  adafactor_sums       w, g, r, scale[1], c?, low? -> sums[3] or [3,batch]     first, batch, count
 *                       of w^2; of (scale g)^2 / (r c); of r, divided by count (the elements of a whole matrix), once
 *                       for each element: the mean of r when all parts are summed. Without c, r is v[*,+] and the
 *                       third sum is 0
 *  adafactor            w, g, r, sums, scale[1], lr[1], c?, m?, low? -> w', m', low'
 *                       first, batch, count, relative, least, limit, decay, beta1    Shazeer & Stern 2018:
 *                       u = scale g / sqrt(r c / mean r), or / sqrt(v); u /= max(1, rms(u) / limit); limit 0: none;
 *                       a = lr, when relative lr max(least, rms(w)); with m: m = b1 m + (1-b1) a u, else m = a u;
 *                       w -= a decay w + m
 *  deal                 a[+] -> c[+]        a dim in the order in which parts have it when it is dealt zig-zag
 *                       (ir/part.h), part after part; back: from that order           dim, parts, unit, back
 *  shift                ids[*] i32 -> ids'[*]  id - first, or -1 outside of [0, count)   first, count
 *
 * Collectives, made by the sharding pass; `axis` is of the mesh, a dim is cut among the axis's ranks into
 * [whole i / n, whole (i + 1) / n) in steps of `unit`. The executor runs them over src/comm.
 *  all_reduce           a[+] -> c[+]        sum over the axis, or the largest    axis, members, largest, narrow
 *                       members: a bit for each place on the axis that takes part; 0: all
 *                       narrow: f32 summands travel as bf16 and are summed in f32
 *  all_gather           a[+] -> c[+]        dim becomes whole                    axis, dim, whole, unit
 *  reduce_scatter       a[+] -> c[+]        sum; dim is cut                      axis, dim, count, unit, narrow
 *  all_to_all           a[+] -> c[+]        dim becomes whole, to is cut         axis, dim, whole, unit, to, count, to_unit
 *  ring_shift           a[+] -> c[+]        a goes to the next rank on the axis, c comes from the one before, whose
 *                       dim may have another size                                axis, dim, count
 *
 * A collective whose result a wait reads is only started where it stands; without one it is waited for at once.
 *  wait                 c[+], a[+]? -> c'[+]   c, when the collective that made it is over, in c's buffer; a is what
 *                       the collective reads, which lives as long
 *  pack                 a[+]... -> c[n]     one after the other
 */
#pragma once
#include <stdint.h>

#define TR_OPS(X)            \
    X(permute) X(roll) X(slice) X(pad) X(concat) X(repeat) X(sum_dim) X(window_regions)     \
    X(add) X(mul) X(scale) X(cast) X(activate) X(activate_grad) X(gated) X(gated_grad)      \
    X(dropout) X(fill) X(clear)                                                             \
    X(sum_leading) X(expand) X(reshape)                                                     \
    X(linear) X(linear_dx) X(linear_dw)                                                     \
    X(layer_norm) X(add_layer_norm) X(layer_norm_grad)                                      \
    X(rms_norm) X(add_rms_norm) X(rms_norm_grad) X(rope_rates) X(rope) X(sinusoids)                      \
    X(buckets) X(embedding) X(embedding_grad)                                                          \
    X(attention) X(attention_grad) X(attention_cached)                                      \
    X(route) X(route_grad) X(route_loss) X(route_loss_grad)                                 \
    X(dispatch) X(collect) X(collect_grad) X(expert_linear) X(expert_linear_dw)             \
    X(cross_entropy) X(cross_entropy_grad) X(cross_entropy_train)                           \
    X(cross_entropy_part) X(cross_entropy_rebase) X(cross_entropy_join)                     \
    X(cross_entropy_part_grad)                                                              \
    X(attention_part) X(attention_part_grad)                                                \
    X(global_norm) X(clip) X(adamw) X(sgd) X(lion)                                          \
    X(lars_sums) X(lars) X(lamb_moments) X(lamb)                                            \
    X(adafactor_rows) X(adafactor_mean) X(adafactor_square) X(adafactor_sums) X(adafactor)  \
    X(deal) X(shift) X(pack) X(all_reduce) X(all_gather) X(reduce_scatter) X(all_to_all)    \
    X(ring_shift) X(wait)

typedef enum tr_op {
#define X(name) TR_OP_##name,
    TR_OPS(X)
#undef X
    TR_OP_COUNT
} tr_op;

typedef union tr_attr {
    int64_t i;
    double f;
} tr_attr;

enum { TR_MAX_ATTRS = 12, TR_MAX_OUTPUTS = 6 };

/* Where each attribute stands in a node's attrs. */
enum { TR_SCALE_FACTOR };
enum { TR_CAST_DTYPE };
enum { TR_ACTIVATE_FN };
enum { TR_DROPOUT_P, TR_DROPOUT_STREAM, TR_DROPOUT_DIMS };
enum { TR_FILL_VALUE };
enum { TR_SUM_LEADING_KEPT };
enum { TR_LINEAR_TRANSPOSED, TR_LINEAR_FN };
enum { TR_LINEAR_DW_TRANSPOSED, TR_LINEAR_DW_DTYPE, TR_LINEAR_DW_SPLIT };
enum { TR_NORM_EPS };
enum { TR_RATES_DIMS, TR_RATES_BASE, TR_RATES_SCALING, TR_RATES_FACTOR, TR_RATES_ORIGINAL, TR_RATES_LOW, TR_RATES_HIGH };
enum { TR_ROPE_INTERLEAVED, TR_ROPE_INVERSE, TR_ROPE_FACTOR };
enum { TR_SINUSOIDS_DIMS };
enum { TR_BUCKETS_COUNT, TR_BUCKETS_MOST, TR_BUCKETS_BOTH };
enum { TR_EMBEDDING_GRAD_ROWS };
enum { TR_ATTENTION_CAUSAL, TR_ATTENTION_WINDOW, TR_ATTENTION_SCALE, TR_ATTENTION_P, TR_ATTENTION_STREAM,
       TR_ATTENTION_ROW };
/* attention_part: after those of attention but the last. */
enum { TR_PART_FIRST = 5, TR_PART_TURN, TR_PART_JUMP, TR_PART_KEY_FIRST, TR_PART_KEY_TURN, TR_PART_KEY_JUMP,
       TR_PART_ALL_KEYS };
enum { TR_ROUTE_K, TR_ROUTE_CAPACITY, TR_ROUTE_NORMALISED, TR_ROUTE_RANDOM, TR_ROUTE_STREAM,
       TR_ROUTE_JOINED, TR_ROUTE_TOGETHER };
enum { TR_ROUTE_LOSS_ALL };
enum { TR_DISPATCH_EXPERTS, TR_DISPATCH_CAPACITY, TR_DISPATCH_TOGETHER };
enum { TR_EXPERT_TRANSPOSED };
enum { TR_MOST_CHOICES = 16 }; /* experts of a token */
enum { TR_LOSS_SMOOTHING, TR_LOSS_Z, TR_LOSS_VOCAB };
enum { TR_CLIP_MAX_NORM };
enum { TR_ADAMW_BETA1, TR_ADAMW_BETA2, TR_ADAMW_EPS, TR_ADAMW_DECAY };
enum { TR_SGD_MOMENTUM, TR_SGD_DECAY };
enum { TR_LION_BETA1, TR_LION_BETA2, TR_LION_DECAY };
enum { TR_LARS_MOMENTUM, TR_LARS_DECAY, TR_LARS_TRUST };
enum { TR_FACTOR_FIRST, TR_FACTOR_BATCH, TR_FACTOR_COUNT }; /* of adafactor_sums and adafactor; rows has the first two */
enum { TR_FACTOR_ROWS_EPS = 2 };
enum { TR_FACTOR_RELATIVE = 3, TR_FACTOR_LEAST, TR_FACTOR_LIMIT, TR_FACTOR_DECAY, TR_FACTOR_BETA1 };
enum { TR_FACTOR_POWER, TR_FACTOR_MEAN_COUNT }; /* of adafactor_mean */
enum { TR_FACTOR_SQUARE_EPS = 1 };              /* of adafactor_square, beside power */

enum { TR_PERMUTE_ORDER };
enum { TR_ROLL_DIM, TR_ROLL_SHIFT };
enum { TR_PAD_DIM, TR_PAD_FIRST, TR_PAD_SIZE };
enum { TR_CONCAT_DIM };
enum { TR_REPEAT_DIM, TR_REPEAT_COUNT };
enum { TR_SUM_DIM_DIM };
enum { TR_REGIONS_SIDE, TR_REGIONS_WINDOW, TR_REGIONS_SHIFT };
enum { TR_SLICE_DIM, TR_SLICE_FIRST, TR_SLICE_COUNT };
enum { TR_DEAL_DIM, TR_DEAL_PARTS, TR_DEAL_UNIT, TR_DEAL_BACK };
enum { TR_SHIFT_FIRST, TR_SHIFT_COUNT };
enum { TR_COLLECTIVE_AXIS, TR_COLLECTIVE_DIM };
enum { TR_REDUCE_MEMBERS = 1, TR_REDUCE_LARGEST, TR_REDUCE_NARROW };
enum { TR_GATHER_WHOLE = 2, TR_GATHER_UNIT };
enum { TR_SCATTER_COUNT = 2, TR_SCATTER_UNIT, TR_SCATTER_NARROW };
enum { TR_RING_COUNT = 2 };
enum { TR_EXCHANGE_WHOLE = 2, TR_EXCHANGE_UNIT, TR_EXCHANGE_TO, TR_EXCHANGE_COUNT, TR_EXCHANGE_TO_UNIT };

/* The functions of activate, and of linear's fn. */
#define TR_FNS(X) X(none) X(gelu_tanh) X(gelu_erf) X(relu) X(silu) X(tanh) X(sigmoid)
typedef enum tr_fn {
#define X(name) TR_FN_##name,
    TR_FNS(X)
#undef X
    TR_FN_COUNT
} tr_fn;
