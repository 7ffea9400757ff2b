/* Passes of your own, in a shared library that `compress --plugin ./libmine.so` loads.
 *
 * This header is all that a plug-in needs: it links nothing of compress. The library exports
 *
 *     COMPRESS_PLUGIN_EXPORT const compress_plugin *compress_plugin_entry(uint32_t host_abi);
 *
 * which returns a description that stays valid, or NULL where it does not know that version. Each
 * of its passes is run on the model's graph with a table of functions, the host. Structures begin
 * with their size, so that either side may be older: new members come at the end, and a change of
 * what is here raises COMPRESS_PLUGIN_ABI.
 *
 * Host functions return 0, or another number where they could not do it; the reason is kept, and a
 * pass that then returns non-zero ends the command with it. Nothing here may be called after the
 * pass has returned, or from another thread. A plug-in may not throw, exit or longjmp through the
 * host. Given the same graph and options it must do the same: compress promises the same bytes.
 */
#ifndef COMPRESS_PLUGIN_H
#define COMPRESS_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#define COMPRESS_PLUGIN_ABI 1u

#define COMPRESS_PLUGIN_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t compress_node;  /* an id; ids are never used again */
typedef int32_t compress_value; /* the same for values: inputs, constants and results */
#define COMPRESS_NONE (-1)      /* an omitted operand, or no producer */

/* ONNX's numbers (TensorProto.DataType): 1 float32, 2 uint8, 3 int8, 6 int32, 7 int64, 9 bool, 10
 * float16, 11 float64, 16 bfloat16, ... */
typedef int32_t compress_dtype;

typedef struct compress_context compress_context; /* of one run of a pass */

typedef struct compress_tensor {
  size_t size; /* sizeof(compress_tensor) */
  compress_dtype dtype;
  int32_t rank;
  const int64_t *dims;
  const void
      *data; /* row by row, as ONNX packs it; valid until the next call that gives a tensor */
  uint64_t bytes;
} compress_tensor;

typedef struct compress_node_info { /* texts and lists are valid until the graph is edited */
  size_t size;
  const char *name, *op_type, *domain; /* domain "" is ai.onnx */
  const compress_value *inputs, *outputs;
  uint32_t input_count, output_count, attribute_count;
  uint32_t body_count; /* graphs in attributes: of If, Loop, Scan */
} compress_node_info;

typedef struct compress_value_info {
  size_t size;
  const char *name;
  compress_dtype dtype;   /* 0: not known */
  int32_t rank;           /* -1: not known */
  const int64_t *dims;    /* negative: not known, or a symbol */
  compress_node producer; /* COMPRESS_NONE: an input or a constant */
  uint32_t use_count;     /* readings by nodes */
  int32_t is_input, is_output, is_constant;
} compress_value_info;

typedef enum compress_attribute_type {
  COMPRESS_ATTRIBUTE_OTHER = 0, /* cannot be read or written here */
  COMPRESS_ATTRIBUTE_INT = 1,
  COMPRESS_ATTRIBUTE_FLOAT = 2,
  COMPRESS_ATTRIBUTE_STRING = 3,
  COMPRESS_ATTRIBUTE_INTS = 4,
  COMPRESS_ATTRIBUTE_FLOATS = 5,
  COMPRESS_ATTRIBUTE_TENSOR = 6
} compress_attribute_type;

typedef struct compress_attribute {
  size_t size;
  const char *name;
  int32_t type;        /* compress_attribute_type */
  int64_t i;           /* INT */
  float f;             /* FLOAT */
  const char *text;    /* STRING, of `count` bytes */
  const int64_t *ints; /* INTS, `count` of them */
  const float *floats; /* FLOATS */
  uint64_t count;
  const compress_tensor *tensor; /* TENSOR */
} compress_attribute;

typedef struct compress_node_spec {
  size_t size;
  const char *op_type, *domain, *name; /* domain and name may be NULL; names are made unique */
  const compress_value *inputs;
  const char *const *outputs; /* names of new values, made unique */
  uint32_t input_count, output_count;
} compress_node_spec;

typedef struct compress_option {
  size_t size;
  int32_t given;    /* by the user, as against the default */
  int64_t integer;  /* of an integer; 1 or 0 of a flag */
  double number;    /* of a number or an integer */
  const char *text; /* of a text or a choice */
} compress_option;

/* What a pass may do with the model. Grows at its end: check `size` before calling a later member.
 */
typedef struct compress_host {
  size_t size;
  uint32_t abi;

  /* --- Words: each of these copies what it is given. */
  int (*fail)(compress_context *, const char *message); /* returns non-zero, to be returned */
  void (*skipped)(compress_context *, const char *node, const char *reason); /* for the report */
  void (*detail)(compress_context *, const char *name, double value);        /* for the report */
  int (*option)(compress_context *, const char *name, compress_option *out);

  /* --- Reading. Nodes are listed so that each comes after what it reads; the list is valid until
   * it is asked for again, and may name nodes that were erased since. */
  int (*nodes)(compress_context *, const compress_node **list, size_t *count);
  int (*node)(compress_context *, compress_node, compress_node_info *out);
  int (*value)(compress_context *, compress_value, compress_value_info *out);
  int (*use)(compress_context *, compress_value, uint32_t index, compress_node *node,
             uint32_t *slot);
  int (*find_value)(compress_context *, const char *name, compress_value *out);
  int (*constant)(compress_context *, compress_value, compress_tensor *out);
  int (*attribute)(compress_context *, compress_node, uint32_t index, compress_attribute *out);
  int (*find_attribute)(compress_context *, compress_node, const char *name,
                        compress_attribute *out);

  /* --- Editing. Each of these makes the pass count as having changed the model. */
  int (*rename_node)(compress_context *, compress_node, const char *name);
  int (*rename_value)(compress_context *, compress_value, const char *name);
  int (*set_attribute)(compress_context *, compress_node, const compress_attribute *);
  int (*remove_attribute)(compress_context *, compress_node, const char *name);
  /* Before a node that is to read it; COMPRESS_NONE: at the end. */
  int (*insert)(compress_context *, compress_node before, const compress_node_spec *,
                compress_node *out);
  int (*set_input)(compress_context *, compress_node, uint32_t slot, compress_value);
  /* Whoever reads `from` reads `to`; a graph output keeps its name. */
  int (*replace_uses)(compress_context *, compress_value from, compress_value to);
  int (*erase)(compress_context *, compress_node); /* whose outputs nothing reads */
  int (*add_constant)(compress_context *, const char *name, const compress_tensor *,
                      compress_value *out);
  int (*set_constant)(compress_context *, compress_value, const compress_tensor *);
} compress_host;

typedef enum compress_option_type {
  COMPRESS_OPTION_FLAG = 0,
  COMPRESS_OPTION_INTEGER = 1,
  COMPRESS_OPTION_NUMBER = 2,
  COMPRESS_OPTION_TEXT = 3,
  COMPRESS_OPTION_CHOICE = 4
} compress_option_type;

typedef struct compress_option_spec {
  size_t size;
  const char *name;     /* "keep-scopes": letters, digits, dashes; a flag and a key of recipes */
  int32_t type;         /* compress_option_type */
  const char *fallback; /* the default as it would be written, or NULL */
  const char *help;     /* one line */
  const char *choices;  /* "a|b|c" of a choice, "1..64" of a number, else NULL */
} compress_option_spec;

/* A flag: the pass also runs on the bodies of If, Loop and Scan, each as a graph. */
#define COMPRESS_PASS_BODIES 1u

typedef struct compress_pass {
  size_t size;
  const char *name;    /* "shorten_names": letters, digits, underscores */
  const char *step;    /* "optimize", "prune", "quantize": it runs after that step's own passes */
  const char *summary; /* one line */
  uint32_t flags;
  uint32_t option_count;
  const compress_option_spec *const *options; /* they become options of the step */
  int (*run)(const compress_host *, compress_context *);
} compress_pass;

typedef struct compress_plugin {
  size_t size;
  uint32_t abi;               /* COMPRESS_PLUGIN_ABI of the header that it was built with */
  const char *name, *version; /* for reports */
  uint32_t pass_count;
  const compress_pass *const *passes;
} compress_plugin;

typedef const compress_plugin *(*compress_plugin_entry_fn)(uint32_t host_abi);

COMPRESS_PLUGIN_EXPORT const compress_plugin *compress_plugin_entry(uint32_t host_abi);

#ifdef __cplusplus
}
#endif

#endif
