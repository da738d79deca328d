#!/usr/bin/env ruby
# frozen_string_literal: true

# Reads raw tar headers: ustar, GNU (long names, base-256 numbers, sparse files) and PAX. Written for the checker
# so that it shares no code with the agent. It does not normalize anything; a wrong byte is an error.
#
#   tar_reader.rb ARCHIVE              prints the names of its entries, raw (ARCHIVE: tar, plain or gzip, "-" for standard input)
#   tar_reader.rb --contents ARCHIVE   prints name, size and SHA-1 of each file, name and target of each symbolic link

require 'digest'
require 'stringio'
require 'zlib'

# One archive over a seekable IO.
class TarReader
  class Malformed < StandardError; end

  # Of a sparse file `size` is what the archive holds of it, `pieces` are offsets and lengths of that in the file, and `real` is the
  # file's size.
  Entry = Struct.new(:name, :type, :mode, :uid, :gid, :mtime, :size, :link, :offset, :pieces, :real, keyword_init: true) do
    def file? = %w[0 S].include?(type)
    def directory? = type == '5'
    def hard_link? = type == '1'
    def symlink? = type == '2'
  end

  BLOCK = 512
  NO_DATA = %w[1 2 3 4 5 6].freeze

  attr_reader :entries

  def initialize(io)
    @io = io
    @entries = []
    read_entries
  end

  def content(entry)
    @io.seek(entry.offset)
    bytes = @io.read(entry.size) || ''.b
    raise Malformed, "#{entry.name}: the archive ends inside it" if bytes.bytesize != entry.size

    entry.pieces ? spread(entry, bytes) : bytes
  end

  private

  def read_entries
    @io.seek(0)
    long = {}
    global = {}
    while (header = block)
      if header.count("\0") == BLOCK
        return finish
      end
      entry = parse(header)
      case entry.type
      when 'L' then long['path'] = data(entry).sub(/\0+\z/n, '')
      when 'K' then long['linkpath'] = data(entry).sub(/\0+\z/n, '')
      when 'x' then long.merge!(records(data(entry)))
      when 'g' then global.merge!(records(data(entry)))
      else
        sparse(entry, header) if entry.type == 'S'
        apply(entry, global.merge(long))
        long = {}
        skip(entry)
        @entries << entry
      end
    end
    raise Malformed, 'the archive ends without two zero blocks'
  end

  def finish
    second = block
    raise Malformed, 'one zero block only at the end' unless second && second.count("\0") == BLOCK

    while (rest = @io.read(1 << 16))
      raise Malformed, 'data after the two zero blocks' if rest.count("\0") != rest.bytesize
    end
  end

  def block
    bytes = @io.read(BLOCK)
    return nil if bytes.nil?
    raise Malformed, 'the archive ends inside a block' if bytes.bytesize != BLOCK

    bytes.b
  end

  def parse(header)
    sum = header.sum(32) - header[148, 8].sum(32) + 8 * 32
    raise Malformed, "wrong header checksum at byte #{@io.pos - BLOCK}" unless sum == number(header[148, 8])

    name = text(header[0, 100])
    prefix = header[257, 6] == "ustar\0".b ? text(header[345, 155]) : ''.b
    type = header[156] == "\0" || header[156] == '7' ? '0' : header[156]
    Entry.new(name: prefix.empty? ? name : "#{prefix}/#{name}", type: type, mode: number(header[100, 8]) & 0o7777,
              uid: number(header[108, 8]), gid: number(header[116, 8]), size: number(header[124, 12]),
              mtime: number(header[136, 12]), link: text(header[157, 100]), offset: @io.pos)
  end

  # GNU's old form: four pieces in the header, more in blocks behind it.
  def sparse(entry, header)
    entry.real = number(header[483, 12])
    entry.pieces = pieces(header[386, 96])
    more = header.getbyte(482) != 0
    while more
      extension = block or raise Malformed, "#{entry.name}: the archive ends inside its header"
      entry.pieces += pieces(extension[0, 504])
      more = extension.getbyte(504) != 0
    end
    entry.offset = @io.pos
  end

  def pieces(field)
    field.scan(/.{24}/mn).reject { |pair| pair.start_with?("\0".b) }.map { |pair| [number(pair[0, 12]), number(pair[12, 12])] }
  end

  def spread(entry, bytes)
    whole = ''.b
    entry.pieces.each do |offset, length|
      raise Malformed, "#{entry.name}: its pieces overlap" if offset < whole.bytesize

      whole << "\0".b * (offset - whole.bytesize) << bytes.slice!(0, length)
    end
    whole << "\0".b * [entry.real - whole.bytesize, 0].max
    raise Malformed, "#{entry.name}: its pieces are not its size" unless whole.bytesize == entry.real && bytes.empty?

    whole
  end

  def text(field) = field[/\A[^\0]*/n]

  # Octal digits, or GNU's base-256 with the top bit set (and the next one for a negative number).
  def number(field)
    first = field.getbyte(0)
    if first & 0x80 != 0
      value = field.bytes.inject(0) { |sum, byte| (sum << 8) | byte } & ((1 << (8 * field.bytesize - 1)) - 1)
      return first & 0x40 == 0 ? value : value - (1 << (8 * field.bytesize - 1))
    end
    digits = field.delete("\0 ")
    raise Malformed, "not a number: #{field.inspect}" unless digits.match?(/\A[0-7]*\z/)

    digits.to_i(8)
  end

  def records(bytes)
    found = {}
    until bytes.empty?
      length = bytes[/\A\d+(?= )/]
      raise Malformed, 'broken PAX record' unless length && length.to_i > length.size + 2 && bytes[length.to_i - 1] == "\n"

      key, value = bytes[(length.size + 1)...(length.to_i - 1)].split('=', 2)
      found[key] = value
      bytes = bytes[length.to_i..]
    end
    found
  end

  def apply(entry, extra)
    raise Malformed, "#{entry.name}: a sparse file as PAX has them" if extra.keys.any? { |key| key.start_with?('GNU.sparse') }

    entry.name = extra['path'] if extra['path']
    entry.link = extra['linkpath'] if extra['linkpath']
    entry.size = extra['size'].to_i if extra['size']
    entry.mtime = extra['mtime'].to_r if extra['mtime']
    entry.uid = extra['uid'].to_i if extra['uid']
    entry.gid = extra['gid'].to_i if extra['gid']
    entry.size = 0 if NO_DATA.include?(entry.type)
  end

  def data(entry)
    bytes = content(entry)
    skip(entry)
    bytes
  end

  def skip(entry)
    @io.seek(entry.offset + (entry.size + BLOCK - 1) / BLOCK * BLOCK)
  end
end

if $PROGRAM_NAME == __FILE__
  wants_contents = ARGV.first == '--contents' && ARGV.shift
  bytes = ARGV.fetch(0) == '-' ? $stdin.binmode.read : File.binread(ARGV.fetch(0))
  # As the Director reads: to the end of the first member, ignoring what follows.
  bytes = Zlib::GzipReader.new(StringIO.new(bytes)).read if bytes.start_with?("\x1f\x8b".b)
  $stdout.binmode
  archive = TarReader.new(StringIO.new(bytes))
  plain = ->(name) { name.split('/').reject { |part| part.empty? || part == '.' }.join('/') }
  # The targets of hard links.
  known = {}
  archive.entries.each do |entry|
    name = plain.call(entry.name)
    if !wants_contents
      $stdout.write(entry.name, "\n")
    elsif entry.symlink?
      $stdout.write(name, "\t->\t", entry.link, "\n")
    elsif entry.file? || entry.hard_link?
      content = archive.content(entry) if entry.file?
      known[name] = content ? "#{content.bytesize}\t#{Digest::SHA1.hexdigest(content)}" : known.fetch(plain.call(entry.link))
      $stdout.write(name, "\t", known[name], "\n")
    end
  end
end
