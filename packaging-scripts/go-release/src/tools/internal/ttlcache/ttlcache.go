// Package ttlcache keeps values until they expire. If there is no room, it removes the least recently used one.
package ttlcache

import (
	"container/list"
	"sync"
	"time"
)

// A Cache holds at most a fixed number of values. It may be used by several goroutines.
type Cache[K comparable, V any] struct {
	mutex    sync.Mutex
	capacity int
	now      func() time.Time
	order    *list.List
	items    map[K]*list.Element
	hits     int
	misses   int
}

type item[K comparable, V any] struct {
	key   K
	value V
	until time.Time
}

// New makes a cache.
func New[K comparable, V any](capacity int, now func() time.Time) *Cache[K, V] {
	return &Cache[K, V]{capacity: capacity, now: now, order: list.New(), items: make(map[K]*list.Element)}
}

// Get returns a value that has not expired.
func (cache *Cache[K, V]) Get(key K) (V, bool) {
	cache.mutex.Lock()
	defer cache.mutex.Unlock()
	if element, ok := cache.items[key]; ok {
		if found := element.Value.(*item[K, V]); cache.now().Before(found.until) {
			cache.order.MoveToFront(element)
			cache.hits++
			return found.value, true
		}
		cache.remove(element)
	}
	cache.misses++
	var none V
	return none, false
}

// Put stores a value with its time to live.
func (cache *Cache[K, V]) Put(key K, value V, lifetime time.Duration) {
	cache.mutex.Lock()
	defer cache.mutex.Unlock()
	if element, ok := cache.items[key]; ok {
		cache.remove(element)
	}
	if cache.order.Len() >= cache.capacity {
		cache.remove(cache.order.Back())
	}
	cache.items[key] = cache.order.PushFront(&item[K, V]{key, value, cache.now().Add(lifetime)})
}

// Counts returns how many lookups found something, and how many did not.
func (cache *Cache[K, V]) Counts() (hits, misses int) {
	cache.mutex.Lock()
	defer cache.mutex.Unlock()
	return cache.hits, cache.misses
}

func (cache *Cache[K, V]) remove(element *list.Element) {
	cache.order.Remove(element)
	delete(cache.items, element.Value.(*item[K, V]).key)
}
