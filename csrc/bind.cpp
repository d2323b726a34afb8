// The Python module `resemb_ext._C`: importing it registers the operators; its functions tell and
// choose what runs.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdexcept>

#include "common/profile.h"
#include "common/update.h"
#include "cpu/buffer.h"
#include "cpu/kernels.h"
#ifdef RESEMB_WITH_CUDA
#include "cuda/device.h"
#include "cuda/device_info.h"
#endif

namespace {

PyObject* isa(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(resemb::cpu::kernels().isa);
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
    return nullptr;
  }
}

PyObject* available_isas(PyObject*, PyObject*) { return PyUnicode_FromString(resemb::cpu::available_isas()); }

PyObject* release_memory(PyObject*, PyObject*) { return PyLong_FromSize_t(resemb::cpu::release_blocks()); }

PyObject* advise_huge_pages(PyObject*, PyObject* args) {
  unsigned long long address = 0, bytes = 0;
  if (!PyArg_ParseTuple(args, "KK", &address, &bytes)) return nullptr;
  return PyBool_FromLong(resemb::cpu::advise_huge_pages(reinterpret_cast<void*>(address), bytes));
}

PyObject* preload_pages(PyObject*, PyObject* args) {
  unsigned long long address = 0, bytes = 0;
  if (!PyArg_ParseTuple(args, "KK", &address, &bytes)) return nullptr;
  bool done = false;
  Py_BEGIN_ALLOW_THREADS;
  done = resemb::cpu::preload_pages(reinterpret_cast<void*>(address), bytes);
  Py_END_ALLOW_THREADS;
  return PyBool_FromLong(done);
}

// Switches the stages' clocks on or off, and returns and clears what they counted, in nanoseconds.
PyObject* take_profile(PyObject*, PyObject* on) {
  const int wanted = PyObject_IsTrue(on);
  if (wanted < 0) return nullptr;
#ifdef RESEMB_WITH_CUDA
  resemb::cuda::count_stages();
#endif
  int64_t spent[static_cast<int>(resemb::Stage::count)];
  for (int i = 0; i < static_cast<int>(resemb::Stage::count); ++i) {
    spent[i] = resemb::profile.nanoseconds[i].exchange(0);
  }
  resemb::profile.on = wanted == 1;
  PyObject* result = PyTuple_New(static_cast<int>(resemb::Stage::count));
  for (int i = 0; result != nullptr && i < static_cast<int>(resemb::Stage::count); ++i) {
    PyObject* number = PyLong_FromLongLong(spent[i]);
    if (number == nullptr || PyTuple_SetItem(result, i, number) != 0) {
      Py_DECREF(result);
      return nullptr;
    }
  }
  return result;
}

PyObject* select_isa(PyObject*, PyObject* name) {
  PyObject* bytes = PyUnicode_AsUTF8String(name);
  if (bytes == nullptr) return nullptr;
  PyObject* result = nullptr;
  try {
    resemb::cpu::select_isa(PyBytes_AsString(bytes));
    result = Py_None;
    Py_INCREF(result);
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  }
  Py_DECREF(bytes);
  return result;
}

// JSON text on the CUDA side: the runtime built in, the driver and devices seen, or why none is.
PyObject* cuda_info(PyObject*, PyObject*) {
#ifdef RESEMB_WITH_CUDA
  char text[2048];
  resemb::cuda_device_info(text, sizeof text);
  return PyUnicode_FromString(text);
#else
  return PyUnicode_FromString("{}");
#endif
}

// The names that C++ and Python share: see common/update.h.
PyObject* update_names(PyObject*, PyObject*) {
#define RESEMB_TEXT(name) " " #name
  return Py_BuildValue("(ssss)", RESEMB_RULES(RESEMB_TEXT), RESEMB_MOMENTS(RESEMB_TEXT),
                       RESEMB_UPDATE_REALS(RESEMB_TEXT), RESEMB_UPDATE_INTEGERS(RESEMB_TEXT));
#undef RESEMB_TEXT
}

PyMethodDef methods[] = {
    {"isa", isa, METH_NOARGS, "Name of the instruction-set path in use."},
    {"available_isas", available_isas, METH_NOARGS, "Comma-separated paths that run here."},
    {"release_memory", release_memory, METH_NOARGS, "Free the memory kept between calls; returns its bytes."},
    {"advise_huge_pages", advise_huge_pages, METH_VARARGS,
     "Ask for huge pages under (address, bytes); whether the system took the request."},
    {"preload_pages", preload_pages, METH_VARARGS,
     "Bring the pages of a mapped file, (address, bytes), into memory; whether the system could."},
    {"take_profile", take_profile, METH_O, "Nanoseconds a stage since the last call; clocks on or off."},
    {"select_isa", select_isa, METH_O, "Choose a path by name; 'auto' takes the best."},
    {"update_names", update_names, METH_NOARGS,
     "Names of the update rules, of the forms of moments, and, in the operators' order, of an update's reals "
     "and integers."},
    {"cuda_info", cuda_info, METH_NOARGS, "CUDA runtime and devices as JSON; {} in a CPU-only build."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
