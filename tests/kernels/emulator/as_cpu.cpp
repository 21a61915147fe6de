// Lets the CUDA operators take the place of the CPU library: torch calls them with CPU tensors.
// With -fvisibility=hidden what torch has of the same names is replaced for this library alone.
#include <cstdint>
#include <cstring>

extern "C" {

// Linked with --wrap.
int32_t __real_aoti_torch_library_init_impl(const char* space, const char* key, const char* file,
                                            uint32_t line, void** library);

int32_t __wrap_aoti_torch_library_init_impl(const char* space, const char*, const char* file,
                                            uint32_t line, void** library) {
  return __real_aoti_torch_library_init_impl(space, "CPU", file, line, library);
}

int32_t aoti_torch_create_device_guard(int32_t, void** guard) {
  *guard = nullptr;
  return 0;
}

int32_t aoti_torch_delete_device_guard(void*) { return 0; }

int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

// What kernels/native.py asks of the CPU library.
__attribute__((visibility("default"))) const char* decant_cpu_instructions() { return "baseline"; }

__attribute__((visibility("default"))) int decant_cpu_use(const char* name) {
  return std::strcmp(name, "baseline") == 0;
}

}  // extern "C"
