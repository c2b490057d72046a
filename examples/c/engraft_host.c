/* Runs a model on Engraft from a C program: engraft_host ENGRAFT_LIBRARY MODEL REPORT
 *
 * The model reads "x", 4x16 floats, and writes "y", 4x8 floats. Engraft is a plugin: the program registers its library with ONNX Runtime,
 * finds its device, and appends that to the session's options. C++ programs do the same through onnxruntime_cxx_api.h.
 *
 *     cc engraft_host.c -I ONNXRUNTIME/include -L ONNXRUNTIME/lib -lonnxruntime -o engraft_host
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <onnxruntime_c_api.h>

static const OrtApi* api;

static void check(OrtStatus* status) {
  if (status == NULL) return;
  fprintf(stderr, "%s\n", api->GetErrorMessage(status));
  api->ReleaseStatus(status);
  exit(1);
}

/* Engraft's device, once its library is registered. */
static const OrtEpDevice* engraft_device(OrtEnv* env, const char* library) {
  const OrtEpDevice* const* devices = NULL;
  size_t count = 0;
  check(api->RegisterExecutionProviderLibrary(env, "engraft", library));
  check(api->GetEpDevices(env, &devices, &count));
  for (size_t i = 0; i < count; i++) {
    if (strcmp(api->EpDevice_EpName(devices[i]), "EngraftExecutionProvider") == 0) return devices[i];
  }
  fprintf(stderr, "%s offers no device\n", library);
  exit(1);
}

int main(int argc, char** argv) {
  enum { ROWS = 4, IN = 16, OUT = 8 };
  if (argc != 4) {
    fprintf(stderr, "usage: %s ENGRAFT_LIBRARY MODEL REPORT\n", argv[0]);
    return 2;
  }
  api = OrtGetApiBase()->GetApi(24);
  if (api == NULL) {
    fprintf(stderr, "ONNX Runtime %s is older than 1.24\n", OrtGetApiBase()->GetVersionString());
    return 1;
  }
  OrtEnv* env = NULL;
  check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "engraft_host", &env));
  const OrtEpDevice* device = engraft_device(env, argv[1]);

  OrtSessionOptions* options = NULL;
  check(api->CreateSessionOptions(&options));
  check(api->SetIntraOpNumThreads(options, 2));
  const char* keys[] = {"partition_policy", "placement_report_path"};
  const char* values[] = {"maximal", argv[3]};
  check(api->SessionOptionsAppendExecutionProvider_V2(options, env, &device, 1, keys, values, 2));
  OrtSession* session = NULL;
  check(api->CreateSession(env, argv[2], options, &session));

  float x[ROWS * IN];
  for (int i = 0; i < ROWS * IN; i++) x[i] = (float)(i % 7) * 0.25f - 0.5f;
  const int64_t shape[] = {ROWS, IN};
  OrtMemoryInfo* memory = NULL;
  OrtValue* input = NULL;
  OrtValue* output = NULL;
  check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(api->CreateTensorWithDataAsOrtValue(memory, x, sizeof x, shape, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
  const char* input_name = "x";
  const char* output_name = "y";
  check(api->Run(session, NULL, &input_name, (const OrtValue* const*)&input, 1, &output_name, 1, &output));
  float* y = NULL;
  check(api->GetTensorMutableData(output, (void**)&y));
  for (int i = 0; i < ROWS * OUT; i++) printf("%.9g\n", y[i]);

  api->ReleaseValue(output);
  api->ReleaseValue(input);
  api->ReleaseMemoryInfo(memory);
  api->ReleaseSession(session);
  api->ReleaseSessionOptions(options);
  check(api->UnregisterExecutionProviderLibrary(env, "engraft"));
  api->ReleaseEnv(env);
  return 0;
}
