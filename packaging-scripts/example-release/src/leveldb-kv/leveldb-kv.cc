// leveldb-kv: a key-value store on the command line.
#include <leveldb/db.h>
#include <leveldb/write_batch.h>
#include <snappy-stubs-public.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>

static const char kUsage[] =
    "usage: leveldb-kv DIR put KEY VALUE | get KEY | delete KEY | list | fill COUNT\n"
    "       leveldb-kv --version\n";

static int check(const leveldb::Status &status) {
  if (status.ok()) return 0;
  std::cerr << "leveldb-kv: " << status.ToString() << '\n';
  return 1;
}

// Repetitive values: they show that the blocks on disk are compressed.
static leveldb::Status fill(leveldb::DB *db, int count) {
  leveldb::WriteBatch batch;
  for (int i = 0; i < count; ++i) {
    std::string value;
    for (int k = 0; k < 50; ++k) value += "value " + std::to_string(i) + ' ';
    batch.Put("key" + std::to_string(i), value);
  }
  leveldb::Status status = db->Write(leveldb::WriteOptions(), &batch);
  if (status.ok()) db->CompactRange(nullptr, nullptr);
  return status;
}

int main(int argc, char **argv) {
  if (argc == 2 && std::string(argv[1]) == "--version") {
    std::cout << "leveldb " << leveldb::kMajorVersion << '.' << leveldb::kMinorVersion << " with snappy " << SNAPPY_MAJOR << '.'
              << SNAPPY_MINOR << '.' << SNAPPY_PATCHLEVEL << '\n';
    return 0;
  }
  if (argc < 3) {
    std::cerr << kUsage;
    return 1;
  }

  leveldb::Options options;
  options.create_if_missing = true;
  options.compression = leveldb::kSnappyCompression;
  leveldb::DB *opened = nullptr;
  if (check(leveldb::DB::Open(options, argv[1], &opened))) return 1;
  const std::unique_ptr<leveldb::DB> db(opened);

  const std::string command = argv[2];
  if (command == "put" && argc == 5) return check(db->Put(leveldb::WriteOptions(), argv[3], argv[4]));
  if (command == "delete" && argc == 4) return check(db->Delete(leveldb::WriteOptions(), argv[3]));
  if (command == "fill" && argc == 4) return check(fill(db.get(), std::atoi(argv[3])));
  if (command == "get" && argc == 4) {
    std::string value;
    if (check(db->Get(leveldb::ReadOptions(), argv[3], &value))) return 1;
    std::cout << value << '\n';
    return 0;
  }
  if (command == "list" && argc == 3) {
    const std::unique_ptr<leveldb::Iterator> entry(db->NewIterator(leveldb::ReadOptions()));
    for (entry->SeekToFirst(); entry->Valid(); entry->Next())
      std::cout << entry->key().ToString() << '=' << entry->value().ToString() << '\n';
    return check(entry->status());
  }
  std::cerr << kUsage;
  return 1;
}
