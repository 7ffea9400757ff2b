/* Two passes of one's own, in C:
 *
 *   flush_small   weights too small to matter become zero (numbers near 1e-40, left behind by training,
 *                 are computed many times slower than others)
 *   clip_inputs   a Clip behind every float input, so that no outlier of live data leaves the range that
 *                 the model was calibrated for
 *
 *   compress optimize model.onnx -o out.onnx --plugin ./libcustom_pass.so --flush-below 1e-30 --clip-to 4
 */
#include <compress_plugin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { kFloat32 = 1 };

/* --- flush_small --------------------------------------------------------------------------------- */

/* Writes a copy without the small numbers, where there are any; how many there were goes to `flushed`. */
static int flush(const compress_host *host, compress_context *context, compress_value id, double below,
                 double *flushed) {
  compress_tensor tensor = {.size = sizeof tensor};
  if (host->constant(context, id, &tensor) != 0) return 1;
  const size_t count = tensor.bytes / sizeof(float);
  const float *from = tensor.data;
  size_t small = 0;
  for (size_t i = 0; i < count; ++i) small += from[i] != 0 && fabs(from[i]) < below;
  if (small == 0) return 0;
  float *to = malloc(tensor.bytes);
  if (to == NULL) return host->fail(context, "out of memory");
  for (size_t i = 0; i < count; ++i) to[i] = fabs(from[i]) < below ? 0 : from[i];
  tensor.data = to;
  const int failed = host->set_constant(context, id, &tensor);
  free(to);
  *flushed += (double)small;
  return failed;
}

static int flush_small(const compress_host *host, compress_context *context) {
  compress_option below = {.size = sizeof below};
  if (host->option(context, "flush-below", &below) != 0) return 1;
  double flushed = 0;
  const compress_node *nodes;
  size_t count;
  if (host->nodes(context, &nodes, &count) != 0) return 1;
  for (size_t n = 0; n < count; ++n) {
    compress_node_info node = {.size = sizeof node};
    if (host->node(context, nodes[n], &node) != 0) return 1;
    for (uint32_t i = 0; i < node.input_count; ++i) {
      if (node.inputs[i] == COMPRESS_NONE) continue;
      compress_value_info value = {.size = sizeof value};
      if (host->value(context, node.inputs[i], &value) != 0) return 1;
      if (!value.is_constant || value.dtype != kFloat32) continue;
      if (flush(host, context, node.inputs[i], below.number, &flushed) != 0) return 1;
    }
  }
  host->detail(context, "flushed", flushed);
  return 0;
}

/* --- clip_inputs --------------------------------------------------------------------------------- */

/* x -> Clip(x, -limit, limit) for all that read x. */
static int clip(const compress_host *host, compress_context *context, compress_value input,
                compress_node reader, float limit) {
  const float bounds[2] = {-limit, limit};
  compress_value operands[3] = {input, COMPRESS_NONE, COMPRESS_NONE};
  for (int i = 0; i < 2; ++i) {
    const compress_tensor scalar = {sizeof scalar, kFloat32, 0, NULL, &bounds[i], sizeof(float)};
    if (host->add_constant(context, i == 0 ? "clip_low" : "clip_high", &scalar, &operands[i + 1]) != 0) return 1;
  }
  const char *result = "clipped_input";
  const compress_node_spec spec = {sizeof spec, "Clip", NULL, "clip_input", operands, &result, 3, 1};
  compress_node made;
  compress_node_info node = {.size = sizeof node};
  if (host->insert(context, reader, &spec, &made) != 0) return 1;
  if (host->node(context, made, &node) != 0) return 1;
  const compress_value clipped = node.outputs[0];
  if (host->replace_uses(context, input, clipped) != 0) return 1;
  return host->set_input(context, made, 0, input); /* which read itself for a moment */
}

static int clip_inputs(const compress_host *host, compress_context *context) {
  compress_option limit = {.size = sizeof limit};
  if (host->option(context, "clip-to", &limit) != 0) return 1;
  if (limit.number == 0) return 0;
  if (limit.number < 0) return host->fail(context, "clip-to is a positive number");
  const compress_node *nodes;
  size_t count;
  if (host->nodes(context, &nodes, &count) != 0) return 1;
  for (size_t n = 0; n < count; ++n) {
    compress_node_info node = {.size = sizeof node};
    if (host->node(context, nodes[n], &node) != 0) return 1;
    /* Its own work of an earlier round. */
    if (strcmp(node.op_type, "Clip") == 0 && strncmp(node.name, "clip_input", 10) == 0) continue;
    for (uint32_t i = 0; i < node.input_count; ++i) {
      if (host->node(context, nodes[n], &node) != 0) return 1;
      if (node.inputs[i] == COMPRESS_NONE) continue;
      compress_value_info value = {.size = sizeof value};
      if (host->value(context, node.inputs[i], &value) != 0) return 1;
      if (!value.is_input || value.is_constant) continue;
      if (value.dtype != kFloat32) {
        host->skipped(context, node.name, "reads an input that is not float32");
        continue;
      }
      if (clip(host, context, node.inputs[i], nodes[n], (float)limit.number) != 0) return 1;
    }
  }
  return 0;
}

/* --- What the library holds ---------------------------------------------------------------------- */

static const compress_option_spec kBelow = {
    sizeof kBelow, "flush-below", COMPRESS_OPTION_NUMBER, "1e-30", "weights nearer to zero than this become zero",
    "0..1"};
static const compress_option_spec *const kFlushOptions[] = {&kBelow};
static const compress_pass kFlush = {
    sizeof kFlush, "flush_small", "optimize", "sets weights to zero that are too small to matter", 0, 1,
    kFlushOptions, flush_small};

static const compress_option_spec kLimit = {
    sizeof kLimit, "clip-to", COMPRESS_OPTION_NUMBER, "0", "clip float inputs to plus and minus this; 0: not at all",
    NULL};
static const compress_option_spec *const kClipOptions[] = {&kLimit};
static const compress_pass kClip = {sizeof kClip, "clip_inputs", "optimize", "clips what the model is fed", 0, 1,
                                    kClipOptions, clip_inputs};

static const compress_pass *const kPasses[] = {&kFlush, &kClip};
static const compress_plugin kPlugin = {sizeof kPlugin, COMPRESS_PLUGIN_ABI, "custom_pass", "1.0", 2, kPasses};

const compress_plugin *compress_plugin_entry(uint32_t host_abi) {
  return host_abi == COMPRESS_PLUGIN_ABI ? &kPlugin : NULL;
}
