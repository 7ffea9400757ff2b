/* Plug-ins that cannot be used, one by each value of CASE; packaging_test.py says what is said of them. */
#include <compress_plugin.h>
#include <stddef.h>

enum { kFloat32 = 1 };

static int run(const compress_host *host, compress_context *context) {
  const compress_node *nodes;
  size_t count;
  compress_node_info first = {.size = sizeof first};
  if (host->nodes(context, &nodes, &count) != 0 || host->node(context, nodes[0], &first) != 0) return 1;
#if CASE == 20
  return host->fail(context, "the moon is\nin the wrong place");
#elif CASE == 21
  return host->erase(context, nodes[0]);
#elif CASE == 22
  compress_node_info info = {.size = sizeof info};
  return host->node(context, 1 << 30, &info);
#elif CASE == 23
  compress_node_info last = {.size = sizeof last};
  if (host->node(context, nodes[count - 1], &last) != 0) return 1;
  return host->set_input(context, nodes[0], 0, last.outputs[0]); /* a cycle */
#elif CASE == 24
  compress_node_info info = {.size = 8};
  return host->node(context, nodes[0], &info);
#elif CASE == 25
  const int64_t dims[2] = {1LL << 40, 1LL << 40};
  const compress_tensor tensor = {sizeof tensor, kFloat32, 2, dims, &dims, 4};
  compress_value made;
  return host->add_constant(context, "huge", &tensor, &made);
#elif CASE == 26
  return 1;
#elif CASE == 27
  return host->rename_value(context, first.inputs[0], "renamed");
#else
  return 0;
#endif
}

static const compress_option_spec kOption = {sizeof kOption,
#if CASE == 10
                                             "opset",
#else
                                             "strength",
#endif
                                             COMPRESS_OPTION_INTEGER,
#if CASE == 11
                                             "much",
#else
                                             "1",
#endif
                                             "how much", "0..9"};
static const compress_option_spec *const kOptions[] = {&kOption};
static const compress_pass kPass = {sizeof kPass,
#if CASE == 12
                                    "Bad Name",
#elif CASE == 13
                                    "fold_constants",
#else
                                    "broken",
#endif
#if CASE == 14
                                    "optimise",
#else
                                    "optimize",
#endif
                                    "does harm", 0, 1, kOptions,
#if CASE == 15
                                    NULL
#else
                                    run
#endif
};
static const compress_pass *const kPasses[] = {&kPass};
static const compress_plugin kPlugin = {sizeof kPlugin,
#if CASE == 2
                                        99,
#else
                                        COMPRESS_PLUGIN_ABI,
#endif
                                        "broken", "1",
#if CASE == 3
                                        0,
#else
                                        1,
#endif
                                        kPasses};

#if CASE == 0
const void *another_entry(void) { return &kPlugin; }
#else
const compress_plugin *compress_plugin_entry(uint32_t host_abi) {
  (void)host_abi;
#if CASE == 1
  return NULL;
#else
  return &kPlugin;
#endif
}
#endif
